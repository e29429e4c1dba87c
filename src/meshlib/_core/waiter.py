"""Interface of a waiting call, so that queues and commands do not depend on the state machine of a call."""

from typing import Protocol

__all__ = ["Waiter"]


class Waiter(Protocol):
    """Call that waits for a host, or for its next attempt."""

    wait_for_ready: bool
    """It waits until a host is connected, rather than fail."""
    waited: bool
    """It has waited for a host since its last attempt."""
    woken: bool
    """It was woken since it began to wait."""

    def wake(self) -> None:
        """Request the next input of the call from the shell."""
        ...
