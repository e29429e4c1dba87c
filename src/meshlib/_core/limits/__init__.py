"""Limits on a channel's work in flight."""
