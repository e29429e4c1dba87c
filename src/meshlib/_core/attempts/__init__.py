"""Trying again: whether, when, and how many at a time."""
