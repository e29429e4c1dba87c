"""Interval at which connections are polled: short while a call or the application waits for one."""

import math
from typing import Final, final

__all__ = ["QUIET", "SWEEP", "POLL_FIRST", "POLL_LAST", "ConnectivityPoll"]

SWEEP: Final = 0.1
"""Seconds between two polls of all connections while there are calls, and none waits for a connection."""
QUIET: Final = 1.0
"""The same without calls or changes: doubling, from ``SWEEP`` to this. A call reads the state by itself."""
POLL_FIRST: Final = 0.0003
POLL_LAST: Final = 0.02
GROWTH: Final = 1.5
"""The same during a wait for a connection: from the first value, growing by half, to the last."""
LONG: Final = 10.0
"""Seconds after which a wait for readiness without a call no longer shortens the interval below ``SWEEP``."""
EACH: Final = 1e-4
"""Minimum seconds between two polls per connection: polling one takes a microsecond, so polling takes about a hundredth
of a CPU core for any number of connections."""
EACH_WAITING: Final = 1e-5
"""The same while a call waits for a host: a tenth."""


@final
class ConnectivityPoll:
    """Time of the next poll. If one method interrupts another, only the two stores conflict. Either value is fine: one
    poll too many, or one slightly late."""

    __slots__ = ("_gap", "_since", "at")

    def __init__(self) -> None:
        self.at = math.inf
        """Monotonic second of the next poll; infinite while there are no connections."""
        self._gap = SWEEP
        self._since = 0.0
        """Start of the last wait."""

    @property
    def resting(self) -> bool:
        """Whether nothing has happened for a while."""
        return self._gap == QUIET

    def hurry(self, *, now: float) -> None:
        """Poll fast: a wait for a connection begins, or one is new."""
        self._gap = POLL_FIRST
        self._since = now
        self.at = min(self.at, now + POLL_FIRST)

    def looked(
        self, seats: int, *, waiting: bool, quiet: bool, now: float, watched: bool = False, dialling: bool = False
    ) -> None:
        """Schedule the next poll after all connections were polled.

        Args:
            seats: number of connections.
            waiting: whether a call waits for one.
            quiet: whether there was no call and no change since the last poll.
            now: monotonic second.
            watched: whether the application waits, without a call, for the channel to be ready.
            dialling: whether a connection is not established yet.
        """
        if waiting or (watched and now - self._since < LONG):
            self._gap = min(self._gap * GROWTH, POLL_LAST)
        elif quiet:
            self._gap = min(max(self._gap * 2, SWEEP), QUIET)
        elif dialling:
            # Connections dialled together with the awaited one are established soon, too.
            self._gap = min(self._gap * GROWTH, SWEEP)
        else:
            self._gap = SWEEP
        self.at = now + max(self._gap, seats * (EACH_WAITING if waiting else EACH))

    def settle(self, *, seats: bool, now: float) -> None:
        """Start polling if there are connections, stop if there are none."""
        if not seats:
            self.at = math.inf
        elif self.at == math.inf:
            self.at = now + SWEEP
