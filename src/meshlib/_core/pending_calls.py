"""Calls of one channel that wait for a host, or for their next attempt."""

from collections.abc import Callable
from typing import final

from meshlib._core.waiter import Waiter

__all__ = ["PendingCalls"]


@final
class PendingCalls:
    """Waiting calls, oldest first. Any thread may call any method at any time: each change of a dictionary is atomic,
    and no method iterates over one that may change."""

    __slots__ = ("calls", "freed", "resting")

    def __init__(self) -> None:
        self.calls: dict[Waiter, None] = {}
        """Calls that wait for a host."""
        self.resting: dict[Waiter, None] = {}
        """Calls that back off: only the closing channel wakes them."""
        self.freed = False
        """An attempt ended, or there is a new picker: waiting calls can pick again."""

    def add(self, call: Waiter, *, most: float) -> bool:
        """Queue ``call`` for a host, unless ``most`` wait already. A call that has waited and found no host is not
        rejected because of later ones."""
        call.woken = False  # before it is registered: it may be woken from then on
        self.calls[call] = None
        if len(self.calls) > most and not call.waited:
            self.calls.pop(call, None)
            return False
        call.waited = True
        return True

    def rest(self, call: Waiter) -> None:
        """Register ``call`` as backing off."""
        call.woken = False
        self.resting[call] = None

    def forget(self, call: Waiter) -> None:
        """Remove ``call``."""
        self.calls.pop(call, None)
        self.resting.pop(call, None)

    def take(self, reachable: Callable[[], bool]) -> tuple[Waiter, ...]:
        """Remove and return the calls to resume: all if ``freed``. Otherwise, if no host is ``reachable``, only those
        without wait-for-ready."""
        freed, self.freed = self.freed, False
        if not self.calls:
            return ()
        if not freed and reachable():
            return ()
        return _taken(self.calls, [call for call in tuple(self.calls) if freed or not call.wait_for_ready])

    def take_all(self) -> tuple[Waiter, ...]:
        """Remove and return all calls of a closing channel."""
        return _taken(self.calls, list(self.calls)) + _taken(self.resting, list(self.resting))


def _taken(kept: dict[Waiter, None], calls: list[Waiter]) -> tuple[Waiter, ...]:
    """Remove ``calls`` and return those that were still present."""
    return tuple(call for call in calls if kept.pop(call, call) is None)
