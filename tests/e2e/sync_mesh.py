"""What the tests of the sync shell share: a channel to given servers, and ways to wait for other threads."""

WAIT = 10.0  # seconds that anything may take before a test fails
