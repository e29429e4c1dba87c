"""Each host in turn, or as often as its weight says."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from random import Random
from typing import Final, final

from meshlib._core.balancing.builtin import BuiltinBalancer, BuiltinPicker
from meshlib._core.balancing.contracts import Host, Picker, PickInfo
from meshlib._core.balancing.edf import MAX_SKIPPED, Schedule, equal_weights

__all__ = ["RoundRobin"]

WEIGHT: Final[Callable[[Host], float]] = attrgetter("weight")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobin(BuiltinBalancer):
    """Each host in turn; where weights differ, each in proportion to its weight and evenly spread.

    Envoy's ``round_robin``. The first host is a random one, or a thousand clients that start together would all start
    with the same. Where weights are equal the turn is kept when hosts come and go. Where they differ hosts are
    scheduled earliest deadline first; that schedule too is kept, which Envoy's is not.

    Blind to load: a slow server gets as many calls as a fast one. :class:`LeastRequest` sees it.
    """

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """A picker for this membership."""
        return _RoundRobinPicker(hosts, rng.randrange(MAX_SKIPPED))


@final
class _RoundRobinPicker(BuiltinPicker):
    def __init__(self, hosts: tuple[Host, ...], start: int) -> None:
        self._hosts = hosts
        self._size = len(hosts)
        self._turn = start
        self._schedule = None if equal_weights(hosts) else Schedule(hosts, WEIGHT, skipped=start)
        self.reentrant = self._schedule is None

    def pick(self, call: PickInfo, *, now: float) -> Host:
        if self._schedule is not None:
            return self._schedule.pick()
        turn = self._turn  # uninterrupted
        self._turn = turn + 1  # uninterrupted
        return self._hosts[turn % self._size]

    def adopt(self, previous: Picker, *, now: float) -> None:
        if isinstance(previous, _RoundRobinPicker):
            self._turn = previous._turn
            if self._schedule is not None and previous._schedule is not None:
                self._schedule.adopt(previous._schedule)
