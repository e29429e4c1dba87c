"""Hosts that cannot be connected although others can: when to diagnose them, and when to log it."""

import math
from typing import Final, final

from meshlib._core.host import HostEntry

__all__ = ["PATIENCE", "PAUSE", "UnreachableHosts"]

PATIENCE: Final = 1.0
"""Seconds that a host fails before it is diagnosed: a restarting server is not."""
PAUSE: Final = 10.0
"""Seconds between two log lines of one channel."""
AT_ONCE: Final = 16
"""Maximum number of hosts diagnosed at once; the others follow in the next second."""


@final
class UnreachableHosts:
    """Failing hosts that have not been diagnosed yet."""

    __slots__ = ("_since", "_told_at", "at")

    def __init__(self) -> None:
        self.at = math.inf
        """Monotonic second of the next :meth:`due`."""
        self._since: dict[HostEntry, float] = {}
        self._told_at = -math.inf

    def changed(self, host: HostEntry, *, now: float) -> None:
        """Record a new connectivity state of ``host``."""
        if host.unreachable and not host.removed:
            self._since[host] = now
            self.at = min(self.at, now + PATIENCE)
        elif self._since:
            self._since.pop(host, None)

    def due(self, *, now: float) -> list[HostEntry]:
        """Return the hosts to diagnose, each once."""
        if now < self.at:
            return []
        waiting = tuple(self._since.items())
        due = [host for host, since in waiting if now >= since + PATIENCE]
        for host in due[:AT_ONCE]:
            self._since.pop(host, None)
        left = [since + PATIENCE for host, since in waiting if host in self._since]
        self.at = max(min(left), now + PATIENCE) if len(due) > AT_ONCE else min(left, default=math.inf)
        return [host for host in due[:AT_ONCE] if host.subchannel is not None and not host.removed]

    def worth_a_line(self, *, now: float) -> bool:
        """Whether to log an unreachable host; rate-limited by ``PAUSE``."""
        if now < self._told_at + PAUSE:
            return False
        self._told_at = now
        return True
