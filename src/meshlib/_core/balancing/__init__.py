"""Load balancing: one algorithm per file, and the registry of their names."""
