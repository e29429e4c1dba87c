"""Retries and hedges: whether, when, and how many."""
