"""The calls of one channel that wait: for a host, or for their next attempt."""

from collections.abc import Callable
from typing import final

from meshlib._core.waiter import Waiter

__all__ = ["PendingCalls"]


@final
class PendingCalls:
    """Those that wait, oldest first. Any thread may call any method at any moment: each change of a dictionary is one
    step, and nobody walks through one that may change."""

    __slots__ = ("calls", "freed", "resting")

    def __init__(self) -> None:
        self.calls: dict[Waiter, None] = {}
        """Those that wait for a host."""
        self.resting: dict[Waiter, None] = {}
        """Those that back off: only the closing channel wakes them."""
        self.freed = False
        """A place became free, or there is a new picker: what a call waits for may have come."""

    def add(self, call: Waiter, *, most: float) -> bool:
        """``call`` waits for a host, unless ``most`` do already. One that has waited, and was woken in vain, is not
        refused for those that came meanwhile."""
        call.woken = False  # before it is registered: it may be woken from then on
        self.calls[call] = None
        if len(self.calls) > most and not call.waited:
            self.calls.pop(call, None)
            return False
        call.waited = True
        return True

    def rest(self, call: Waiter) -> None:
        """``call`` backs off."""
        call.woken = False
        self.resting[call] = None

    def forget(self, call: Waiter) -> None:
        """``call`` waits no more."""
        self.calls.pop(call, None)
        self.resting.pop(call, None)

    def take(self, reachable: Callable[[], bool]) -> tuple[Waiter, ...]:
        """Takes out those whose wait may be over: all, if something became free; else, if nothing is ``reachable``,
        those that do not insist on a ready host."""
        freed, self.freed = self.freed, False
        if not self.calls:
            return ()
        if not freed and reachable():
            return ()
        return _taken(self.calls, [call for call in tuple(self.calls) if freed or not call.wait_for_ready])

    def take_all(self) -> tuple[Waiter, ...]:
        """Takes out everybody: the channel closes."""
        return _taken(self.calls, list(self.calls)) + _taken(self.resting, list(self.resting))


def _taken(kept: dict[Waiter, None], calls: list[Waiter]) -> tuple[Waiter, ...]:
    """Those of ``calls`` that were there to be taken out: others have left meanwhile."""
    return tuple(call for call in calls if kept.pop(call, call) is None)
