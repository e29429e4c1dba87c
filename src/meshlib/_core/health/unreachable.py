"""Hosts that cannot be connected though others can: which are to be asked why, and when that is worth a log line."""

import math
from typing import Final, final

from meshlib._core.host import HostEntry

__all__ = ["PATIENCE", "PAUSE", "UnreachableHosts"]

PATIENCE: Final = 1.0
"""Seconds that a host fails before it is asked why: a server that restarts is not worth it."""
PAUSE: Final = 10.0
"""Seconds between two log lines of one channel."""
AT_ONCE: Final = 16
"""Hosts that are asked at once, at most; the others in the next second."""


@final
class UnreachableHosts:
    """Those that fail, until they have been asked why."""

    __slots__ = ("_since", "_told_at", "at")

    def __init__(self) -> None:
        self.at = math.inf
        """Monotonic second of the next :meth:`due`."""
        self._since: dict[HostEntry, float] = {}
        self._told_at = -math.inf

    def changed(self, host: HostEntry, *, now: float) -> None:
        """The connection of ``host`` is in another state."""
        if host.unreachable and not host.removed:
            self._since[host] = now
            self.at = min(self.at, now + PATIENCE)
        elif self._since:
            self._since.pop(host, None)

    def due(self, *, now: float) -> list[HostEntry]:
        """Those to be asked why they fail, each once."""
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
        """Whether the log is to say so; at most once in a while."""
        if now < self._told_at + PAUSE:
            return False
        self._told_at = now
        return True
