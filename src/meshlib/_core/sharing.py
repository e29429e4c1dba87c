"""Which subchannels of a process share a connection.

C-core gives channels of equal target and options one connection, and one back-off. While that connection is failing, a
new channel would fail until the back-off ends, though the server is up again. grpc's own channels rest when they lose
their connection, so that a new one dials at once; those of meshlib dial for ever.
"""

import itertools
import weakref
from collections.abc import Hashable
from typing import Final, final

from meshlib._core.host import HostEntry

__all__ = ["Sharing"]

FEW: Final = 64
"""Entries that are kept before the first search for those that are out of use."""


@final
class _Sharers:
    """The hosts whose subchannels have one number, oldest first."""

    __slots__ = ("hosts", "most", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.hosts: list[weakref.ref[HostEntry]] = []
        self.most = FEW


@final
class Sharing:
    """The numbers that are put among the options of subchannels: equal ones share a connection.

    Not locked, for the event loops of several threads use one: every method leaves it usable at every line. What two
    threads do at once costs at most a connection that might have been shared.

    Args:
        numbers: yields one that no subchannel of the process, or of a process it was forked from, has had.
        first: the number of subchannels that have nothing to avoid.
    """

    __slots__ = ("_first", "_most", "_numbers", "_sharers")

    def __init__(self, numbers: "itertools.count[int] | None" = None, first: int = 0) -> None:
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._first = first
        self._sharers: dict[Hashable, _Sharers] = {}
        self._most = FEW

    def child(self) -> "Sharing":
        """That of a forked process, which shares nothing with the subchannels it has inherited."""
        return Sharing(self._numbers, next(self._numbers))

    def number(self, key: Hashable, host: HostEntry) -> int:
        """The number of a new subchannel of ``host``: the last one of its ``key``, unless the connection of that is
        failing.

        Args:
            key: what C-core tells connections apart by.
            host: whose subchannel it will be.
        """
        sharers = self._sharers.get(key)
        if sharers is None:
            if len(self._sharers) >= self._most:
                self._tidy()
            sharers = self._sharers.setdefault(key, _Sharers(self._first))
        # They have one connection, so one is as good as all; the oldest has seen most of it.
        oldest = next((known for ref in sharers.hosts if (known := ref()) is not None and _in_use(known)), None)
        if oldest is not None and HostEntry.slower_than_a_new_connection(oldest):
            sharers.hosts = []
            sharers.number = next(self._numbers)
        elif len(sharers.hosts) >= sharers.most or oldest is None:
            sharers.hosts = [ref for ref in sharers.hosts if (known := ref()) is not None and _in_use(known)]
            sharers.most = max(FEW, 2 * len(sharers.hosts))
        sharers.hosts.append(weakref.ref(host))
        return sharers.number

    def _tidy(self) -> None:
        """Forgets the keys out of use. Their connections may be failing still, so a new one gets another number."""
        self._first = next(self._numbers)
        self._sharers = {
            key: sharers
            for key, sharers in tuple(self._sharers.items())
            if any((host := ref()) is not None and _in_use(host) for ref in sharers.hosts)
        }
        self._most = max(FEW, 2 * len(self._sharers))


def _in_use(host: HostEntry) -> bool:
    return not host.removed
