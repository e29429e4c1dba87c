"""Priority load balancing and panic mode, around any other balancer.

Envoy's rules for priorities and panic (``LoadBalancerBase`` in ``load_balancer_impl.cc``), in its whole percents. Their
strict limit is RFC 2782's rule: the first tier that has a host gets all calls.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Final, Generic, TypeVar, final

from meshlib._core.balancing.builtin import BuiltinPicker
from meshlib._core.balancing.contracts import Balancer, Host, Picker, PickInfo, Report
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.checks import number
from meshlib._core.errors import ConfigError

__all__ = ["Load", "Priorities", "Spread", "Tier", "divided", "loads"]

H = TypeVar("H", bound=Host)

MOST: Final = 100.0
"""A larger factor has the same effect as the strict rule."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load of one tier.

    Args:
        percent: share of the calls.
        panic: too few of its hosts are healthy, so calls go to all of them.
    """

    percent: int
    panic: bool


def loads(counts: Sequence[tuple[int, int]], *, factor: float | None, threshold: float) -> list[Load]:
    """Compute the load of each tier from its number of healthy hosts.

    Args:
        counts: healthy hosts and all hosts of each tier, highest priority first.
        factor: overprovisioning; None: strict.
        threshold: percent of healthy hosts below which a tier panics; 0: never.
    """
    # An empty tier panics, too (Envoy): else it would disable the rule for when all tiers panic.
    low = [100 * healthy < threshold * max(total, 1) for healthy, total in counts]
    if factor is None:
        return _strict(counts, low)
    health = [min(100, round(factor * 100) * healthy // total) if total else 0 for healthy, total in counts]
    available = min(100, sum(health))
    panic = [available < 100 and few for few in low]
    if all(panic):
        everything = sum(total for _, total in counts)
        shares = [100 * total // everything if everything else 0 for _, total in counts]
        eligible = [total > 0 for _, total in counts]
    else:
        shares, left = [], 100
        for one in health:
            shares.append(min(left, one * 100 // available) if available else 0)
            left -= shares[-1]
        # If rounding has left no share, the first tier with a healthy host gets all calls.
        eligible = [one > 0 for one in (health if available else [healthy for healthy, _ in counts])]
    if any(eligible):
        # The remainder of rounding down goes to the first eligible tier.
        shares[eligible.index(True)] += 100 - sum(shares)
    return [Load(share, few) for share, few in zip(shares, panic, strict=True)]


def _strict(counts: Sequence[tuple[int, int]], low: Sequence[bool]) -> list[Load]:
    chosen = next((tier for tier, (healthy, _) in enumerate(counts) if healthy), None)
    if chosen is None:
        chosen = next((tier for tier, (_, total) in enumerate(counts) if total and low[tier]), None)
    return [Load(100, low[tier]) if tier == chosen else Load(0, False) for tier in range(len(counts))]


@dataclass(frozen=True, slots=True)
class Tier(Generic[H]):
    """Hosts of one priority that may be picked.

    Args:
        priority: 0 is tried first.
        hosts: at least one.
        percent: share of the calls.
        panic: unhealthy hosts are included, because too few are healthy.
    """

    priority: int
    hosts: tuple[H, ...]
    percent: int
    panic: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Priorities:
    """Priority failover and panic mode, around another balancer.

    Every channel has such an object. By default it is strict, as in RFC 2782: calls go to the first priority that has a
    healthy host. With an ``overprovisioning_factor`` calls spill over gradually, as in Envoy: with 1.4 the first
    priority keeps all calls while 72 % of its hosts are healthy, and below that a share for its healthy hosts.

    Panic: if less than ``healthy_panic_threshold`` percent of a tier are healthy, its calls go to all of its connected
    hosts, ejected or not. The fault is then likely common to all hosts, and the few healthy ones would be overloaded.
    With an ``overprovisioning_factor`` a tier panics only if the other tiers cannot take its calls.

    Args:
        balancer: picks within a tier.
        overprovisioning_factor: 1 to 100 (Envoy: ``overprovisioning_factor``, in percent); None: strict.
        healthy_panic_threshold: percent, 0 to 100; 0: calls fail instead of using ejected hosts.

    Raises:
        ConfigError: a field is out of its range, or ``balancer`` is not a balancer object.
    """

    balancer: Balancer = field(default_factory=RoundRobin)
    overprovisioning_factor: float | None = 1.4
    healthy_panic_threshold: float = 50.0

    def __post_init__(self) -> None:
        if isinstance(self.balancer, str | type | Priorities) or not callable(getattr(self.balancer, "picker", None)):
            raise ConfigError("balancer", self.balancer, "must be a balancer object such as LeastRequest()")
        if self.overprovisioning_factor is not None:
            number("overprovisioning_factor", self.overprovisioning_factor, 1, MOST)
        number("healthy_panic_threshold", self.healthy_panic_threshold, 0, 100)

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Create a picker for these hosts: all of them, healthy or not."""
        tiers = divided(self, hosts)
        return Spread([(tier.percent, self.balancer.picker(tier.hosts, rng=rng)) for tier in tiers], rng)


def divided(
    priorities: Priorities,
    hosts: Iterable[H],
    *,
    connected: Callable[[H], bool] = lambda _: True,
    sound: Callable[[H], bool] = lambda host: host.healthy,
) -> tuple[Tier[H], ...]:
    """Divide hosts into the tiers that get calls, highest priority first.

    Args:
        priorities: the configuration.
        hosts: all hosts.
        connected: whether a call can be sent to a host.
        sound: whether a host counts as healthy in the share of healthy hosts; one about to connect may.
    """
    by_priority: dict[int, list[H]] = {}
    for host in hosts:
        by_priority.setdefault(host.endpoint.priority, []).append(host)
    ranks = sorted(by_priority)
    groups = [by_priority[rank] for rank in ranks]
    reachable = [[host for host in group if connected(host)] for group in groups]
    healthy = [[host for host in group if host.healthy] for group in reachable]
    counts = [
        # A tier without a connected host counts as empty, even if it is about to connect.
        (sum(map(sound, group)) if fit else 0, len(group)) if here else (0, 0)
        for group, here, fit in zip(groups, reachable, healthy, strict=True)
    ]
    made = []
    for rank, here, fit, load in zip(
        ranks,
        reachable,
        healthy,
        loads(counts, factor=priorities.overprovisioning_factor, threshold=priorities.healthy_panic_threshold),
        strict=True,
    ):
        chosen = here if load.panic else fit
        if load.percent and chosen:
            made.append(Tier(rank, tuple(chosen), load.percent, len(chosen) > len(fit)))
    return tuple(made)


@final
class Spread(BuiltinPicker):
    """Picker that divides the calls among other pickers by percentage.

    Args:
        pickers: percentage and picker; empty: there is no host to pick.
        rng: draws the picker.
    """

    def __init__(self, pickers: Sequence[tuple[int, Picker]], rng: Random) -> None:
        self._pickers = [picker for _, picker in pickers]
        self._bounds = list(accumulate(percent for percent, _ in pickers))
        self._random = rng.random
        self.reentrant = all(getattr(picker, "reentrant", False) for picker in self._pickers)

    def pick(self, call: PickInfo, *, now: float) -> Host | None:
        bounds = self._bounds
        if not bounds:
            return None
        # Envoy: a whole number from 1 to the sum, and the first tier whose cumulative load reaches it.
        drawn = int(self._random() * bounds[-1]) + 1
        return self._pickers[bisect_left(bounds, drawn)].pick(call, now=now)

    def done(self, host: Host, report: Report, *, now: float) -> None:
        for picker in self._pickers:
            picker.done(host, report, now=now)
