"""Weighted round robin load balancing."""

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
    """Weighted round robin load balancing (Envoy ``round_robin``).

    Hosts are picked in turn; if weights differ, in proportion to weight and evenly spread. The first host is random, so
    that clients that start together do not all start with the same one. With different weights, hosts are scheduled
    earliest deadline first. The position or schedule is kept when hosts come and go; Envoy discards its schedule.

    Ignores load: a slow server gets as many calls as a fast one. :class:`LeastRequest` takes load into account.
    """

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Create a picker for these hosts."""
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
