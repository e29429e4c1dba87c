"""Least request: Envoy's own cases, the odds of two choices, and a slow host."""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.errors import ConfigError
from meshlib.balancing import LeastRequest, Picker, RoundRobin
from meshlib.balancing import Random as RandomBalancer
from meshlib.testing.balancing import SimulatedCall, SimulatedHost, hosts, shares

CALL = SimulatedCall()


class Drawn(Random):
    """Randomness that draws these indexes in order, and starts schedules at 0."""

    def __init__(self, places: Sequence[int] = (), size: int = 1) -> None:
        super().__init__(0)
        self.places = [(place + 0.5) / size for place in places]

    def random(self) -> float:
        return self.places.pop(0)

    def randrange(self, *args: Any) -> int:
        return 0


def busy(*in_flight: int) -> tuple[SimulatedHost, ...]:
    """Hosts with these numbers of calls."""
    members = hosts(len(in_flight))
    for host, count in zip(members, in_flight, strict=True):
        host.in_flight = count
    return members


def picks(made_by: Picker, members: Sequence[SimulatedHost], count: int) -> list[int]:
    """The next picks, as indexes in ``members``."""
    places: dict[object, int] = {host: place for place, host in enumerate(members)}
    return [places[made_by.pick(CALL, now=0.0)] for _ in range(count)]


@pytest.mark.parametrize(
    ("choice_count", "drawn", "expected"),
    [
        pytest.param(2, [0, 0], 0, id="the same twice"),
        pytest.param(2, [0, 3], 3, id="the less busy one"),
        pytest.param(2, [3, 0], 3, id="whichever comes first"),
        pytest.param(5, [3, 0, 3, 2, 1], 3, id="of five"),
        pytest.param(3, [0, 1, 2], 2, id="of three"),
    ],
)
def test_choices(choice_count: int, drawn: list[int], expected: int) -> None:
    """Envoy: LeastRequestLoadBalancerTest.PNC. Drawn with replacement; the least busy of the drawn is picked."""
    members = busy(4, 3, 2, 1)
    rng = Drawn(drawn, 4)
    picker = LeastRequest(choice_count=choice_count).picker(members, rng=rng)
    assert picks(picker, members, 1) == [expected]
    assert rng.places == []


def test_the_earlier_one_on_a_tie() -> None:
    """gRFC A48: strictly fewer calls replace a choice, as many do not."""
    members = busy(2, 2, 3)
    assert picks(LeastRequest().picker(members, rng=Drawn([1, 0], 3)), members, 1) == [1]


def test_weights_and_load_together() -> None:
    """Envoy: LeastRequestLoadBalancerTest.WeightImbalance. By weight / (in_flight + 1), read after each pick."""
    members = hosts(weights=[1, 2])
    picker = LeastRequest().picker(members, rng=Drawn())
    assert picks(picker, members, 6) == [1, 0, 1, 1, 0, 1]
    members[1].in_flight = 1
    assert picks(picker, members, 5) == [1, 0, 1, 0, 1]
    members[0].in_flight, members[1].in_flight = 1, 0
    assert picks(picker, members, 10) == [0, 1, 1, 1, 0, 1, 1, 1, 1, 0]


def test_without_bias_load_does_not_count() -> None:
    """A bias of 0 is round robin by weight."""
    members = hosts(weights=[1, 2])
    members[1].in_flight = 100
    picker = LeastRequest(active_request_bias=0).picker(members, rng=Drawn())
    assert picks(picker, members, 6) == [1, 0, 1, 1, 0, 1]


def test_more_bias_shifts_more() -> None:
    """A host of weight 2 with 3 calls has weight 2/4 at bias 1, 2/16 at bias 2, next to an idle one of weight 1."""
    for bias, expected in ((0.0, 2 / 3), (1.0, 1 / 3), (2.0, 1 / 9)):
        members = hosts(weights=[1, 2])
        members[1].in_flight = 3
        picker = LeastRequest(active_request_bias=bias).picker(members, rng=Random(1))
        assert picks(picker, members, 9000).count(1) / 9000 == pytest.approx(expected, abs=0.001)


def test_two_choices_give_the_busier_of_two_a_quarter() -> None:
    """Envoy: least_request.proto. 40,000 picks, 25 % +- 1 % (4.6 standard deviations)."""
    members = busy(5, 1)
    picker = LeastRequest().picker(members, rng=Random(20))
    assert picks(picker, members, 40_000).count(0) / 40_000 == pytest.approx(0.25, abs=0.01)


def test_a_full_scan_takes_the_least_busy_of_all() -> None:
    """Envoy: FullScanMultipleHosts. 30,000 picks, a third of them each +- 0.02 (7 standard deviations)."""
    members = busy(3, 3, 1, 1, 1)
    picker = LeastRequest(selection_method="full_scan").picker(members, rng=Random(7))
    found = picks(picker, members, 30_000)
    assert [found.count(place) / 30_000 for place in range(5)] == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3], abs=0.02)


@pytest.mark.parametrize("least", [0, 2])
def test_a_full_scan_of_many_hosts(least: int) -> None:
    """Whether a few draws find an idle host, or all are scanned: 30,000 picks, a fifth of them for each of the five
    least busy of 50 +- 0.02 (8 standard deviations)."""
    members = busy(*[least if place % 10 == 3 else least + 1 + place % 3 for place in range(50)])
    picker = LeastRequest(selection_method="full_scan").picker(members, rng=Random(11))
    found = picks(picker, members, 30_000)
    assert set(found) == {3, 13, 23, 33, 43}
    assert [found.count(place) / 30_000 for place in (3, 13, 23, 33, 43)] == pytest.approx([0.2] * 5, abs=0.02)


def test_a_full_scan_stops_at_the_first_idle_host_it_draws() -> None:
    """No host has fewer than zero calls, so no other is read."""
    members = busy(*[1] * 40)
    members[20].in_flight = 0
    rng = Drawn([7, 20], 40)
    picker = LeastRequest(selection_method="full_scan").picker(members, rng=rng)
    assert picks(picker, members, 1) == [20]
    assert rng.places == []


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers())
def test_nobody_is_less_busy_than_what_a_full_scan_takes(in_flight: list[int], seed: int) -> None:
    """This holds for any in-flight counts."""
    members = busy(*in_flight)
    chosen = LeastRequest(selection_method="full_scan").picker(members, rng=Random(seed)).pick(CALL, now=0.0)
    assert chosen.in_flight == min(in_flight)


def test_a_full_scan_goes_by_weights_where_they_differ() -> None:
    """As in Envoy: the same schedule as with choices."""
    members = hosts(weights=[1, 2])
    picker = LeastRequest(selection_method="full_scan").picker(members, rng=Drawn())
    assert picks(picker, members, 6) == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_slow_host_gets_less(seed: int) -> None:
    """One host of three takes 20 times as long: round robin and random send it a third all the same, two choices less
    than a fifth, and more than a tenth; a full scan less than that."""
    members = hosts(3)

    def hold(host: object) -> float:
        return 100.0 if host is members[0] else 5.0

    slow = members[0].endpoint.address
    assert shares(RoundRobin(), members, calls=6000, seed=seed, hold=hold)[slow] == pytest.approx(1 / 3, abs=0.001)
    assert shares(RandomBalancer(), members, calls=6000, seed=seed, hold=hold)[slow] == pytest.approx(1 / 3, abs=0.03)
    assert 0.10 < shares(LeastRequest(), members, calls=6000, seed=seed, hold=hold)[slow] < 0.20
    scan = LeastRequest(selection_method="full_scan")
    assert shares(scan, members, calls=6000, seed=seed, hold=hold)[slow] < 0.10


def test_a_host_that_ends_its_calls_at_once_draws_them() -> None:
    """One of ten fails at once, the others take 100 s for a call, and one begins each second. A full scan sends it
    every call that would make another the busier one, nine of ten; two choices only those for which it is drawn, 1 -
    0.9**2."""
    members = hosts(10)
    failing = members[0].endpoint.address

    def hold(host: object) -> float:
        return 0.0 if host is members[0] else 100.0

    scan = LeastRequest(selection_method="full_scan")
    assert 0.85 < shares(scan, members, calls=6000, seed=4, hold=hold)[failing] < 0.95
    assert shares(LeastRequest(), members, calls=6000, seed=4, hold=hold)[failing] == pytest.approx(0.19, abs=0.03)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1], [1, 2, 3, 4]])
def test_shares(weights: list[int]) -> None:
    """Without load shares are the weights: exactly if they differ, by chance if they are equal (+- 0.02)."""
    found = shares(LeastRequest(), hosts(weights=weights), calls=10_000, seed=5)
    assert list(found.values()) == pytest.approx([weight / sum(weights) for weight in weights], abs=0.02)


def test_a_schedule_outlives_the_membership() -> None:
    """Two idle lasting hosts keep 4:2 while others change every third pick."""
    members = hosts(weights=[4, 2, 1, 1])
    counted = [0, 0, 0, 0]
    current: Picker | None = None
    for turn in range(3000):
        made = LeastRequest().picker((*members[:2], members[2 + turn % 2]), rng=Random(turn))
        if current is not None:
            made.adopt(current, now=0.0)
        current = made
        for place in picks(current, members, 3):
            counted[place] += 1
    assert abs(counted[0] - 2 * counted[1]) <= 3


@given(st.integers(2, 6), st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers())
def test_the_busiest_is_picked_only_if_drawn_alone(choice_count: int, in_flight: list[int], seed: int) -> None:
    """Any pick is a host of the membership, and no drawn host is less busy."""
    members = busy(*in_flight)
    copy = Random(seed)
    drawn = [members[int(copy.random() * len(members))] for _ in range(choice_count)]
    chosen = LeastRequest(choice_count=choice_count).picker(members, rng=Random(seed)).pick(CALL, now=0.0)
    assert chosen is min(drawn, key=lambda host: host.in_flight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"choice_count": 1}, "choice_count=1: must be a whole number from 2"),
        ({"choice_count": 2.5}, "choice_count=2.5: "),
        ({"choice_count": True}, "choice_count=True: "),
        ({"selection_method": "FULL_SCAN"}, "selection_method='FULL_SCAN': must be one of n_choices, full_scan"),
        ({"selection_method": []}, "selection_method=[]: "),
        ({"active_request_bias": -0.1}, "active_request_bias=-0.1: must be a number from 0 to 10"),
        ({"active_request_bias": math.nan}, "active_request_bias=nan: "),
        ({"active_request_bias": math.inf}, "active_request_bias=inf: "),
        ({"active_request_bias": "1"}, "active_request_bias='1': "),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], message: str) -> None:
    """The error has the field, the value and the allowed form, at construction."""
    with pytest.raises(ConfigError) as raised:
        LeastRequest(**fields)
    assert str(raised.value).startswith(message)


def test_there_is_no_schedule_to_take_over_from_another_balancer() -> None:
    """A picker by weights starts with its own."""
    members = hosts(weights=[1, 9])
    made = LeastRequest().picker(members, rng=Random(0))
    made.adopt(RoundRobin().picker(members, rng=Random(0)), now=0.0)
    assert picks(made, members, 20).count(1) == 18
