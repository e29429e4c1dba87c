"""Choosing one host per call: one algorithm per file, and the registry of their names."""
