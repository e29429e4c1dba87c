"""Least request load balancing: fewer calls for slow hosts, on which attempts pile up."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, final

from meshlib._core.balancing.builtin import BuiltinBalancer, BuiltinPicker
from meshlib._core.balancing.contracts import Host, Picker, PickInfo
from meshlib._core.balancing.edf import MAX_SKIPPED, Schedule, equal_weights
from meshlib._core.checks import whole
from meshlib._core.errors import ConfigError

__all__ = ["LeastRequest"]

METHODS: Final = ("n_choices", "full_scan")
MAX_CHOICES: Final = 2**32 - 1
DRAWS: Final = 8
"""Hosts that a full scan samples for an idle one, before it scans all."""
FEW: Final = 4 * DRAWS
"""Up to this many hosts, scanning all costs no more than sampling."""
MAX_BIAS: Final = 10.0
"""Envoy has no upper bound; above this one a busy host would get no calls until the membership changes."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LeastRequest(BuiltinBalancer):
    """Least request load balancing (Envoy ``least_request``, gRFC A48).

    Picks the host with the fewest attempts in flight of ``choice_count`` random hosts. They are drawn with replacement,
    and a tie goes to the first drawn: with two choices the busiest of n hosts still gets 1/n**2 of the calls. Attempts
    in flight are those of this channel, streams included; those of other clients do not count.

    ``selection_method="full_scan"`` picks the host with the fewest of all, at random among equals. The busiest host
    gets no calls while another has fewer; one that ends its calls at once, even with errors, gets nearly all. A pick
    takes the same time for any number of hosts while many are idle; if hardly any is, it scans all
    (``benchmarks/pick.py``).

    If weights differ, either method schedules hosts earliest deadline first instead, by the weight
    ``weight / (in_flight + 1) ** active_request_bias`` as of the host's last pick.

    Args:
        choice_count: random hosts per pick, 2 or more. More choices avoid a slow host sooner, and herd to an idle one
            sooner. Ignored by ``"full_scan"``.
        selection_method: ``"n_choices"`` or ``"full_scan"`` (Envoy's field and values, in lower case).
        active_request_bias: 0 to 10; effect of attempts in flight if weights differ. 0: none, weighted round robin.

    Raises:
        ConfigError: a field is out of its range.
    """

    choice_count: int = 2
    active_request_bias: float = 1.0
    selection_method: str = "n_choices"

    def __post_init__(self) -> None:
        whole("choice_count", self.choice_count, 2, MAX_CHOICES)
        if self.selection_method not in METHODS:
            raise ConfigError("selection_method", self.selection_method, f"must be one of {', '.join(METHODS)}")
        bias: object = self.active_request_bias
        if isinstance(bias, bool) or not isinstance(bias, int | float) or math.isnan(bias) or not 0 <= bias <= MAX_BIAS:
            raise ConfigError("active_request_bias", bias, f"must be a number from 0 to {MAX_BIAS:g}")

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Create a picker for these hosts."""
        if not equal_weights(hosts):
            return _WeightedPicker(hosts, self.active_request_bias, rng)
        if self.selection_method == "full_scan":
            return _FullScanPicker(hosts, rng)
        return _ChoicesPicker(hosts, self.choice_count, rng)


@final
class _ChoicesPicker(BuiltinPicker):
    reentrant = True

    def __init__(self, hosts: tuple[Host, ...], choice_count: int, rng: Random) -> None:
        self._hosts = hosts
        self._size = len(hosts)
        self._random = rng.random
        self._others = range(choice_count - 1)

    def pick(self, call: PickInfo, *, now: float) -> Host:
        hosts, size, random = self._hosts, self._size, self._random
        chosen = hosts[int(random() * size)]
        for _ in self._others:
            host = hosts[int(random() * size)]
            if host.in_flight < chosen.in_flight:
                chosen = host
        return chosen


@final
class _FullScanPicker(BuiltinPicker):
    """Envoy draws at each tie; a single draw at the end gives each host the same chance.

    No host has fewer attempts than an idle one, and each idle host is equally likely to be sampled first. With more
    hosts than calls in flight, a few samples find one without a scan.
    """

    reentrant = True

    def __init__(self, hosts: tuple[Host, ...], rng: Random) -> None:
        self._hosts = hosts
        self._size = size = len(hosts)
        self._random = rng.random
        self._draws = range(DRAWS if size > FEW else 0)

    def pick(self, call: PickInfo, *, now: float) -> Host:
        hosts, size, random = self._hosts, self._size, self._random
        for _ in self._draws:
            host = hosts[int(random() * size)]
            if not host.in_flight:
                return host
        in_flight = [host.in_flight for host in hosts]
        least = min(in_flight)
        place = -1
        for _ in range(int(random() * in_flight.count(least)) + 1):
            place = in_flight.index(least, place + 1)
        return hosts[place]


@final
class _WeightedPicker(BuiltinPicker):
    def __init__(self, hosts: tuple[Host, ...], bias: float, rng: Random) -> None:
        self._schedule = Schedule(hosts, _loaded(bias), skipped=rng.randrange(MAX_SKIPPED))

    def pick(self, call: PickInfo, *, now: float) -> Host:
        return self._schedule.pick()

    def adopt(self, previous: Picker, *, now: float) -> None:
        if isinstance(previous, _WeightedPicker):
            self._schedule.adopt(previous._schedule)


def _loaded(bias: float) -> Callable[[Host], float]:
    """The weight of a host, reduced by each attempt in flight."""

    def weight(host: Host) -> float:
        return host.weight / math.pow(host.in_flight + 1, bias)

    return weight
