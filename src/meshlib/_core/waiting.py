"""The calls of one channel that wait: for a host, or for their next attempt."""

from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from meshlib._core.call import Call

__all__ = ["Waiting"]


@final
class Waiting:
    """Those that wait, oldest first. Every method runs under the channel's lock."""

    __slots__ = ("_resting", "_waiting", "freed")

    def __init__(self) -> None:
        self._waiting: dict[Call, None] = {}
        self._resting: dict[Call, None] = {}
        """Those that back off: only the closing channel wakes them."""
        self.freed = False
        """A place became free, or there is a new picker: what a call waits for may have come."""

    def __len__(self) -> int:
        """How many wait for a host."""
        return len(self._waiting)

    @property
    def anybody(self) -> bool:
        """Whether a call waits for anything."""
        return bool(self._waiting or self._resting)

    def add(self, call: "Call") -> None:
        """``call`` waits for a host."""
        self._waiting[call] = None
        call.woken = False

    def rest(self, call: "Call") -> None:
        """``call`` backs off."""
        self._resting[call] = None
        call.woken = False

    def forget(self, call: "Call") -> None:
        """``call`` waits no more."""
        self._waiting.pop(call, None)
        self._resting.pop(call, None)

    def take(self, reachable: Callable[[], bool]) -> "tuple[Call, ...]":
        """Takes out those whose wait may be over: all, if something became free; else, if nothing is ``reachable``,
        those that do not insist on a ready host."""
        freed, self.freed = self.freed, False
        if not self._waiting:
            return ()
        if freed:
            calls = tuple(self._waiting)
        elif not reachable():
            calls = tuple(call for call in self._waiting if not call.wait_for_ready)
        else:
            return ()
        for call in calls:
            del self._waiting[call]
        return calls

    def take_all(self) -> "tuple[Call, ...]":
        """Takes out everybody: the channel closes."""
        calls = (*self._waiting, *self._resting)
        self._waiting.clear()
        self._resting.clear()
        return calls
