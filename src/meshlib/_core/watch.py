"""When the connections are looked at: often while a call waits for one, else just often enough."""

import math
from typing import Final, final

__all__ = ["QUIET", "SWEEP", "WATCH_FIRST", "WATCH_LAST", "Watch"]

SWEEP: Final = 0.1
"""Seconds between two looks at the connections of all hosts while nobody waits."""
QUIET: Final = 1.0
"""The same while all are connected and nobody calls: doubling, from ``SWEEP`` to this. A call asks for itself."""
WATCH_FIRST: Final = 0.0005
WATCH_LAST: Final = 0.02
"""The same while a call waits for a host: from the first value, doubling, to the last."""
EACH: Final = 1e-4
"""Seconds between two looks for each connection, at least: a look at one takes a microsecond, so looking takes about a
hundredth of a processor however many they are."""
EACH_WAITING: Final = 1e-5
"""The same while a call waits for a host: a tenth."""


@final
class Watch:
    """The time of the next look. Only its two stores are ever in doubt if one method runs in the middle of another, and
    either value will do: a look too many, or one that is a moment late."""

    __slots__ = ("_gap", "at")

    def __init__(self) -> None:
        self.at = math.inf
        """Monotonic second; infinite while there is nothing to look at."""
        self._gap = SWEEP

    def hurry(self, *, now: float) -> None:
        """Somebody begins to wait for a connection, or one is new."""
        self._gap = WATCH_FIRST
        self.at = min(self.at, now + WATCH_FIRST)

    def looked(self, seats: int, *, waiting: bool, quiet: bool, now: float) -> None:
        """All ``seats`` were looked at; ``quiet``: they are connected, and nobody has called since the last time."""
        if waiting:
            self._gap = min(self._gap * 2, WATCH_LAST)
        else:
            self._gap = min(max(self._gap * 2, SWEEP), QUIET) if quiet else SWEEP
        self.at = now + max(self._gap, seats * (EACH_WAITING if waiting else EACH))

    def settle(self, *, seats: bool, now: float) -> None:
        """There are connections to look at, or there are none."""
        if not seats:
            self.at = math.inf
        elif self.at == math.inf:
            self.at = now + SWEEP
