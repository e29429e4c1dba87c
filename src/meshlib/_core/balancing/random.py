"""Weighted random load balancing."""

from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from random import Random as Generator
from typing import final

from meshlib._core.balancing.builtin import BuiltinBalancer, BuiltinPicker
from meshlib._core.balancing.contracts import Host, Picker, PickInfo
from meshlib._core.balancing.edf import equal_weights

__all__ = ["Random"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Random(BuiltinBalancer):
    """Weighted random load balancing.

    Envoy's ``random`` ignores weights; here the weight of an SRV record is a share under every balancer but
    :class:`PickFirst`. Weights are read when the membership or an endpoint changes. Unlike :class:`RoundRobin` it is
    even only over many calls; its advantage is that clients cannot synchronize.
    """

    def picker(self, hosts: tuple[Host, ...], *, rng: Generator) -> Picker:
        """Create a picker for these hosts."""
        return _RandomPicker(hosts, rng)


@final
class _RandomPicker(BuiltinPicker):
    reentrant = True

    def __init__(self, hosts: tuple[Host, ...], rng: Generator) -> None:
        self._hosts = hosts
        self._last = len(hosts) - 1
        self._random = rng.random
        self._bounds = None if equal_weights(hosts) else list(accumulate(float(host.weight) for host in hosts))

    def pick(self, call: PickInfo, *, now: float) -> Host:
        bounds = self._bounds
        if bounds is None:
            return self._hosts[int(self._random() * (self._last + 1))]
        # The product may round up to the last bound itself; hence the limit.
        return self._hosts[bisect(bounds, self._random() * bounds[-1], 0, self._last)]
