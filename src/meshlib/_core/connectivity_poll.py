"""When the connections are looked at: often while somebody waits for one, else just often enough."""

import math
from typing import Final, final

__all__ = ["QUIET", "SWEEP", "POLL_FIRST", "POLL_LAST", "ConnectivityPoll"]

SWEEP: Final = 0.1
"""Seconds between two looks at the connections of all hosts while there are calls, and none waits for a connection."""
QUIET: Final = 1.0
"""The same while nobody calls and nothing changes: doubling, from ``SWEEP`` to this. A call asks for itself."""
POLL_FIRST: Final = 0.0003
POLL_LAST: Final = 0.02
GROWTH: Final = 1.5
"""The same while somebody waits for a connection: from the first value, each half as long again, to the last."""
LONG: Final = 10.0
"""Seconds after which who waits for readiness, and not with a call, is no reason to look more often than ``SWEEP``."""
EACH: Final = 1e-4
"""Seconds between two looks for each connection, at least: a look at one takes a microsecond, so looking takes about a
hundredth of a processor however many they are."""
EACH_WAITING: Final = 1e-5
"""The same while a call waits for a host: a tenth."""


@final
class ConnectivityPoll:
    """The time of the next look. Only its two stores are ever in doubt if one method runs in the middle of another, and
    either value will do: a look too many, or one that is a moment late."""

    __slots__ = ("_gap", "_since", "at")

    def __init__(self) -> None:
        self.at = math.inf
        """Monotonic second; infinite while there is nothing to look at."""
        self._gap = SWEEP
        self._since = 0.0
        """When somebody last began to wait."""

    @property
    def resting(self) -> bool:
        """Whether nothing has happened for a while."""
        return self._gap == QUIET

    def hurry(self, *, now: float) -> None:
        """Somebody begins to wait for a connection, or one is new."""
        self._gap = POLL_FIRST
        self._since = now
        self.at = min(self.at, now + POLL_FIRST)

    def looked(
        self, seats: int, *, waiting: bool, quiet: bool, now: float, watched: bool = False, dialling: bool = False
    ) -> None:
        """All ``seats`` were looked at.

        Args:
            seats: how many connections there are.
            waiting: whether a call waits for one.
            quiet: whether nobody has called since the last time, and nothing has changed.
            now: monotonic second.
            watched: whether somebody else waits for the channel to be ready.
            dialling: whether a connection is not made yet.
        """
        if waiting or (watched and now - self._since < LONG):
            self._gap = min(self._gap * GROWTH, POLL_LAST)
        elif quiet:
            self._gap = min(max(self._gap * 2, SWEEP), QUIET)
        elif dialling:
            # What was dialled together with the connection that was waited for comes soon, too.
            self._gap = min(self._gap * GROWTH, SWEEP)
        else:
            self._gap = SWEEP
        self.at = now + max(self._gap, seats * (EACH_WAITING if waiting else EACH))

    def settle(self, *, seats: bool, now: float) -> None:
        """There are connections to look at, or there are none."""
        if not seats:
            self.at = math.inf
        elif self.at == math.inf:
            self.at = now + SWEEP
