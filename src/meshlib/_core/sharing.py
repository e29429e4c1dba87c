"""Sharing of connections among the subchannels of a process.

In C-core, channels of equal target and options share one connection and one back-off. While that connection fails, a
new channel would fail until the back-off ends, even if the server is up again. grpc's own channels become idle when
they lose their connection, so a new one dials at once; meshlib's keep dialling.
"""

import itertools
import weakref
from collections.abc import Hashable
from typing import Final, final

from meshlib._core.host import HostEntry

__all__ = ["Sharing"]

FEW: Final = 64
"""Entries before the first search for unused ones."""


@final
class _Sharers:
    """Hosts that share one connection because their subchannels have the same number, oldest first."""

    __slots__ = ("hosts", "most", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.hosts: list[weakref.ref[HostEntry]] = []
        self.most = FEW


@final
class Sharing:
    """Numbers in the options of subchannels: equal ones share a connection.

    Used by the event loops of several threads without a lock: every method keeps it valid at every line. A race costs
    at most a connection that could have been shared.

    Args:
        numbers: yields numbers that are new in this process and those it was forked from.
        first: default number, of subchannels that avoid no failing connection.
    """

    __slots__ = ("_first", "_most", "_numbers", "_sharers")

    def __init__(self, numbers: "itertools.count[int] | None" = None, first: int = 0) -> None:
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._first = first
        self._sharers: dict[Hashable, _Sharers] = {}
        self._most = FEW

    def child(self) -> "Sharing":
        """Create the one of a forked process, which shares nothing with inherited subchannels."""
        return Sharing(self._numbers, next(self._numbers))

    def number(self, key: Hashable, host: HostEntry) -> int:
        """Number of a new subchannel of ``host``: the last one of ``key``, unless that connection is failing.

        Args:
            key: identity of a connection in C-core.
            host: the host of the subchannel.
        """
        sharers = self._sharers.get(key)
        if sharers is None:
            if len(self._sharers) >= self._most:
                self._tidy()
            sharers = self._sharers.setdefault(key, _Sharers(self._first))
        # They share one connection, so one of them is enough; the oldest has observed it longest.
        oldest = next((known for ref in sharers.hosts if (known := ref()) is not None and _in_use(known)), None)
        if oldest is not None and oldest.redial_may_be_faster():
            sharers.hosts = []
            sharers.number = next(self._numbers)
        elif len(sharers.hosts) >= sharers.most or oldest is None:
            sharers.hosts = [ref for ref in sharers.hosts if (known := ref()) is not None and _in_use(known)]
            sharers.most = max(FEW, 2 * len(sharers.hosts))
        sharers.hosts.append(weakref.ref(host))
        return sharers.number

    def _tidy(self) -> None:
        """Drop unused keys. Their connections may still be failing, so a new subchannel gets another number."""
        self._first = next(self._numbers)
        self._sharers = {
            key: sharers
            for key, sharers in tuple(self._sharers.items())
            if any((host := ref()) is not None and _in_use(host) for ref in sharers.hosts)
        }
        self._most = max(FEW, 2 * len(self._sharers))


def _in_use(host: HostEntry) -> bool:
    return not host.removed
