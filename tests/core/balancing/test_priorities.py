"""Tiers, overprovisioning and panic, against Envoy's own cases (load_balancer_impl_base_test.cc)."""

from collections import Counter
from random import Random

import pytest
from tests.core.scripted import Draws

from meshlib._core.balancing.contracts import Picker
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.priorities import Load, Priorities, divided, loads
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.endpoint import Endpoint
from meshlib._core.errors import ConfigError
from meshlib.testing import SimulatedCall, SimulatedHost
from meshlib.testing import shares as bench

CALL = SimulatedCall()
Counts = list[tuple[int, int]]


def percents(found: list[Load]) -> list[int]:
    """The percentage of each tier."""
    return [load.percent for load in found]


def panics(found: list[Load]) -> list[bool]:
    """The panicking tiers."""
    return [load.panic for load in found]


@pytest.mark.parametrize(
    ("counts", "factor", "expected", "panic"),
    [
        # OverProvisioningFactor
        ([(2, 4), (2, 4)], 1.4, [70, 30], [False, False]),
        ([(2, 4), (2, 4)], 1.0, [50, 50], [False, False]),
        # GentleFailover
        ([(1, 4), (2, 2)], 1.4, [35, 65], [False, False]),
        ([(1, 4), (1, 4)], 1.4, [50, 50], [True, True]),
        # GentleFailoverWithExtraLevels
        ([(1, 5), (1, 5), (1, 5)], 1.4, [34, 33, 33], [True, True, True]),
        ([(1, 4), (1, 4), (1, 4)], 1.4, [35, 35, 30], [False, False, False]),
        # total panic: by the number of hosts
        ([(0, 5), (2, 6), (1, 3)], 1.4, [37, 42, 21], [True, True, True]),
        ([(0, 5), (0, 3), (0, 2)], 1.4, [50, 30, 20], [True, True, True]),
        # PriorityHealth with degraded hosts, which do not exist here: the healthy ones get the same
        ([(0, 5), (2, 5), (2, 5)], 1.4, [0, 56, 44], [False, False, False]),
        # a tier keeps every call down to 72 % (71.43): endpoint.proto
        ([(72, 100), (100, 100)], 1.4, [100, 0], [False, False]),
        ([(71, 100), (100, 100)], 1.4, [99, 1], [False, False]),
    ],
)
def test_envoys_loads(counts: Counts, factor: float, expected: list[int], panic: list[bool]) -> None:
    """Each tier by its share of healthy hosts times the factor, in whole percents; panic if that is too little."""
    found = loads(counts, factor=factor, threshold=50)
    assert percents(found) == expected
    assert panics(found) == panic


@pytest.mark.parametrize(
    ("counts", "expected", "panic"),
    [
        ([(3, 3), (3, 3)], [100, 0], [False, False]),
        ([(2, 3), (3, 3)], [100, 0], [False, False]),
        ([(1, 3), (3, 3)], [100, 0], [True, False]),
        ([(0, 3), (1, 3)], [0, 100], [False, True]),
        ([(0, 3), (0, 3)], [100, 0], [True, False]),
        ([(0, 0), (0, 3)], [0, 100], [False, True]),
        ([(0, 0), (0, 0)], [0, 0], [False, False]),
        ([], [], []),
    ],
)
def test_strict_loads(counts: Counts, expected: list[int], panic: list[bool]) -> None:
    """RFC 2782: the first tier with a host gets every call; only that tier panics."""
    found = loads(counts, factor=None, threshold=50)
    assert percents(found) == expected
    assert panics(found) == panic


@pytest.mark.parametrize("factor", [None, 1.4])
def test_without_panic_nobody_is_left(factor: float | None) -> None:
    """Envoy: DisablePanicMode. Threshold 0 and no healthy host: no host."""
    assert percents(loads([(0, 3), (0, 2)], factor=factor, threshold=0)) == [0, 0]


@pytest.mark.parametrize("factor", [None, 1.4])
def test_a_healthy_host_is_never_rounded_away(factor: float | None) -> None:
    """One of 150 is less than a percent; without panic it gets every call all the same."""
    assert percents(loads([(0, 10), (1, 150)], factor=factor, threshold=0)) == [0, 100]


def hosts(*tiers: str) -> tuple[SimulatedHost, ...]:
    """Hosts by tier, a letter each: ``h`` is healthy, ``e`` ejected."""
    made = []
    for priority, tier in enumerate(tiers):
        for number, letter in enumerate(tier):
            host = SimulatedHost(Endpoint(address=f"10.0.{priority}.{number}:1", priority=priority))
            host.healthy = letter == "h"
            made.append(host)
    return tuple(made)


def shares(picker: Picker, count: int) -> Counter[str]:
    """The number of picks of each host, by its letter."""
    return Counter(
        host.endpoint.address.split(":")[0].removeprefix("10.0.")
        for _ in range(count)
        if (host := picker.pick(CALL, now=0.0)) is not None
    )


def test_panic_uses_all_hosts() -> None:
    """Envoy: MaxUnhealthyPanic. 2 of 6 healthy: all six; 4 of 6: those four."""
    priorities = Priorities()
    assert shares(priorities.picker(hosts("hheeee"), rng=Random(0)), 60) == {f"0.{n}": 10 for n in range(6)}
    assert shares(priorities.picker(hosts("hhhhee"), rng=Random(0)), 60) == {f"0.{n}": 15 for n in range(4)}


def test_a_picker_of_nobody_says_wait() -> None:
    """No panic, no healthy host."""
    picker = Priorities(healthy_panic_threshold=0).picker(hosts("ee", "e"), rng=Random(0))
    assert picker.pick(CALL, now=0.0) is None


def test_calls_spill_over_by_percents() -> None:
    """P0 half healthy with factor 1.4: 70 of 100 draws stay, evenly over its healthy hosts."""
    picker = Priorities().picker(hosts("hhee", "hhhh"), rng=Random(0))
    tiers: Counter[str] = Counter()
    for percent in range(100):
        picker._random = Draws(percent / 100).random  # type: ignore[attr-defined]
        tiers[next(iter(shares(picker, 1)))[0]] += 1
    assert tiers == {"0": 70, "1": 30}


def test_strict_tiers_wrap_any_balancer() -> None:
    """The channel's own tiers: no call spills over while the first tier has a healthy host."""
    strict = Priorities(balancer=LeastRequest(), overprovisioning_factor=None)
    assert set(shares(strict.picker(hosts("hhh", "hhh"), rng=Random(0)), 100)) == {"0.0", "0.1", "0.2"}
    assert set(shares(strict.picker(hosts("eee", "hh"), rng=Random(0)), 100)) == {"1.0", "1.1"}


def test_a_tier_that_nobody_can_reach_is_none() -> None:
    """Its hosts are healthy but not connected: their share goes to connected ones."""
    (tier,) = divided(Priorities(), hosts("hh", "hh"), connected=lambda host: host.endpoint.priority == 1)
    assert (tier.priority, tier.percent, tier.panic, len(tier.hosts)) == (1, 100, False, 2)


def test_done_reaches_the_picker_of_every_tier() -> None:
    """Including picks by other pickers."""
    heard = []

    class Listening(Picker):
        def __init__(self, name: str) -> None:
            self.name = name

        def pick(self, call: object, *, now: float) -> None:
            return None

        def done(self, host: object, report: object, *, now: float) -> None:
            heard.append(self.name)

    class Both:
        def picker(self, hosts: tuple[SimulatedHost, ...], *, rng: Random) -> Picker:
            return Listening(hosts[0].endpoint.address)

    made = hosts("he", "hh")
    Priorities(balancer=Both()).picker(made, rng=Random(0)).done(made[0], None, now=0.0)  # type: ignore[arg-type]
    assert heard == ["10.0.0.0:1", "10.0.1.0:1"]


def test_the_bench_gives_it_all_hosts() -> None:
    """As in a channel; other balancers get only the healthy ones."""
    made = hosts("hhhhheeeee", "hh")
    found = bench(Priorities(), made, calls=10_000)
    assert sum(found[host.endpoint.address] for host in made[:5]) == pytest.approx(0.7, abs=0.02)
    assert sum(found[host.endpoint.address] for host in made[10:]) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("balancer", "round_robin"),
        ("balancer", RoundRobin),
        ("balancer", Priorities()),
        ("balancer", 7),
        ("overprovisioning_factor", 0.9),
        ("overprovisioning_factor", "140%"),
        ("healthy_panic_threshold", 101),
        ("healthy_panic_threshold", None),
    ],
)
def test_what_is_refused(field: str, value: object) -> None:
    """The error has the field and the value."""
    with pytest.raises(ConfigError) as error:
        Priorities(**{field: value})  # type: ignore[arg-type]
    assert (error.value.field, error.value.value) == (field, value)
