"""What the core needs of a call that waits, so that queues and commands do not depend on the machine of a call."""

from typing import Protocol

__all__ = ["Waiter"]


class Waiter(Protocol):
    """A call that waits for a host, or for its next attempt."""

    wait_for_ready: bool
    """It waits until a host is connected, rather than fail."""
    waited: bool
    """It has waited for a host since its last attempt."""
    woken: bool
    """It was woken since it began to wait."""

    def wake(self) -> None:
        """Has the shell feed the call the news."""
        ...
