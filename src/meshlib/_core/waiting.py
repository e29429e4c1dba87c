"""The calls of one channel that wait: for a host, or for their next attempt."""

from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from meshlib._core.call import Call

__all__ = ["Waiting"]


@final
class Waiting:
    """Those that wait, oldest first. Every method runs under the channel's lock."""

    __slots__ = ("calls", "freed", "resting")

    def __init__(self) -> None:
        self.calls: dict[Call, None] = {}
        """Those that wait for a host."""
        self.resting: dict[Call, None] = {}
        """Those that back off: only the closing channel wakes them."""
        self.freed = False
        """A place became free, or there is a new picker: what a call waits for may have come."""

    def add(self, call: "Call", *, most: float) -> bool:
        """``call`` waits for a host, unless ``most`` do already. One that has waited, and was woken in vain, is not
        refused for those that came meanwhile."""
        if len(self.calls) >= most and not call.waited:
            return False
        self.calls[call] = None
        call.waited = True
        call.woken = False
        return True

    def rest(self, call: "Call") -> None:
        """``call`` backs off."""
        self.resting[call] = None
        call.woken = False

    def forget(self, call: "Call") -> None:
        """``call`` waits no more."""
        self.calls.pop(call, None)
        self.resting.pop(call, None)

    def take(self, reachable: Callable[[], bool]) -> "tuple[Call, ...]":
        """Takes out those whose wait may be over: all, if something became free; else, if nothing is ``reachable``,
        those that do not insist on a ready host."""
        freed, self.freed = self.freed, False
        if not self.calls:
            return ()
        if freed:
            calls = tuple(self.calls)
        elif not reachable():
            calls = tuple(call for call in self.calls if not call.wait_for_ready)
        else:
            return ()
        for call in calls:
            del self.calls[call]
        return calls

    def take_all(self) -> "tuple[Call, ...]":
        """Takes out everybody: the channel closes."""
        calls = (*self.calls, *self.resting)
        self.calls.clear()
        self.resting.clear()
        return calls
