"""Service discovery: when to resolve again, and the meaning of answers."""
