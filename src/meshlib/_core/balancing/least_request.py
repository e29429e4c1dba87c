"""The less busy of a few hosts drawn by lot, or the least busy of all: it sees a slow host by the calls that pile up
there."""

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
"""Hosts that a full scan draws before it looks at all, in search of one that has nothing to do."""
FEW: Final = 4 * DRAWS
"""Up to so many hosts looking at all costs no more than drawing."""
MAX_BIAS: Final = 10.0
"""Envoy has no upper bound; beyond this one a busy host would be out until the membership changes."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LeastRequest(BuiltinBalancer):
    """The host with the fewest calls in flight of ``choice_count`` drawn at random (Envoy ``least_request``, gRFC A48).

    Drawn with replacement, the earlier one on a tie: with two choices the busiest of n hosts still gets 1/n**2 of the
    calls. What is in flight is what this channel sent, streams included; it knows nothing of other clients.

    With ``selection_method="full_scan"`` it is the host with the fewest of all, drawn by lot among equals: the busiest
    gets nothing as long as another has less, and one that ends its calls at once, be it with errors, gets nearly all.
    A pick takes the same time for any number of hosts while many of them have nothing in flight; where hardly any has
    nothing, it looks at every one (``benchmarks/pick.py``).

    Where weights differ hosts are scheduled earliest deadline first instead, with either method, by the weight
    ``weight / (in_flight + 1) ** active_request_bias`` as of the host's last pick.

    Args:
        choice_count: hosts drawn, 2 or more. More choices see a slow host sooner, and herd to an idle one sooner. It
            means nothing to ``"full_scan"``.
        selection_method: ``"n_choices"`` or ``"full_scan"`` (Envoy's field and values, in lower case).
        active_request_bias: 0 to 10; how much calls in flight count where weights differ. 0: not at all, round robin by
            weight.

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
        """A picker for this membership."""
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
    """Envoy keeps one of the equals by drawing at each; one draw at the end gives each the same chance.

    Nobody has less than nothing to do: a host drawn from all that is idle is one of the least busy, and each of them is
    as likely to be the first such. With more hosts than calls under way a few draws find one, and nobody is counted.
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
    """A host's weight, less for each call it has."""

    def weight(host: Host) -> float:
        return host.weight / math.pow(host.in_flight + 1, bias)

    return weight
