"""Round robin: Envoy's own cases, and a turn that survives membership changes."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.balancing import Picker, RoundRobin
from meshlib.testing.balancing import SimulatedCall, SimulatedHost, hosts, shares

CALL = SimulatedCall()


class Start(Random):
    """Randomness with a given start: Envoy's tests call it the seed of the balancer."""

    def __init__(self, start: int) -> None:
        super().__init__(0)
        self.start = start

    def randrange(self, *args: Any) -> int:
        return self.start


def picker(members: Sequence[SimulatedHost], start: int = 0, previous: Picker | None = None) -> Picker:
    """A picker for ``members``, replacing ``previous``."""
    made = RoundRobin().picker(tuple(members), rng=Start(start))
    if previous is not None:
        made.adopt(previous, now=0.0)
    return made


def picks(made_by: Picker, members: Sequence[SimulatedHost], count: int) -> list[int]:
    """The next picks, as indexes in ``members``."""
    places: dict[object, int] = {host: place for place, host in enumerate(members)}
    return [places[made_by.pick(CALL, now=0.0)] for _ in range(count)]


def test_the_start_is_given() -> None:
    """Envoy: RoundRobinLoadBalancerTest.Seed."""
    members = hosts(3)
    assert picks(picker(members, 1), members, 4) == [1, 2, 0, 1]


def test_the_turn_is_kept_when_a_host_joins() -> None:
    """Envoy: RoundRobinLoadBalancerTest.Normal."""
    members = hosts(3)
    two = picker(members[:2])
    assert picks(two, members, 5) == [0, 1, 0, 1, 0]
    assert picks(picker(members, 17, two), members, 4) == [2, 0, 1, 2]


def test_weights_and_a_change_of_them_on_the_way() -> None:
    """Envoy: RoundRobinLoadBalancerTest.Weighted. Without a rebuild the new weights hold after one cycle."""
    members = hosts(weights=[1, 2])
    weighted = picker(members)
    assert picks(weighted, members, 6) == [1, 0, 1, 1, 0, 1]
    members[0].weight, members[1].weight = 2, 1
    assert picks(weighted, members, 8) == [1, 0, 0, 1, 0, 0, 1, 0]


def test_the_start_of_a_schedule_is_given_too() -> None:
    """Envoy: RoundRobinLoadBalancerTest.WeightedSeed."""
    members = hosts(weights=[1, 2])
    assert picks(picker(members, 1), members, 6) == [0, 1, 1, 0, 1, 1]


def test_one_two_three() -> None:
    """Weights 1, 2, 3: Envoy's order, or a rotation of it."""
    members = hosts(weights=[1, 2, 3])
    assert picks(picker(members), members, 6) == [2, 1, 2, 0, 1, 2]


def test_clients_start_at_different_hosts() -> None:
    """1,000 channels that send one call each spread it: each of 4 hosts gets 250 +- 60 (4 standard deviations)."""
    members = hosts(4)
    first = Counter(RoundRobin().picker(members, rng=Random(seed)).pick(CALL, now=0.0) for seed in range(1000))
    assert all(190 <= first[host] <= 310 for host in members)


def test_the_turn_outlives_memberships_in_which_weights_differ() -> None:
    """From equal weights to others and back the turn continues."""
    members = hosts(3)
    equal = picker(members)
    picks(equal, members, 4)
    members[0].weight = 2
    weighted = picker(members, 5, equal)
    picks(weighted, members, 3)
    members[0].weight = 1
    assert picks(picker(members, 9, weighted), members, 3) == [1, 2, 0]


def test_a_rolling_restart_leaves_the_shares_alone() -> None:
    """Two hosts of weight 1 are absent in turn, every third pick; the lasting hosts of 4 and 2 keep 4:2."""
    members = hosts(weights=[4, 2, 1, 1])
    current = picker(members, 11)
    counted = [0, 0, 0, 0]
    for turn in range(3000):
        now_here = [*members[:2], members[2 + turn % 2]]
        current = picker(now_here, turn * 7919, current)
        for place in picks(current, members, 3):
            counted[place] += 1
    assert abs(counted[0] - 2 * counted[1]) <= 3
    assert sum(counted) == 9000


@given(st.integers(1, 12), st.integers(0, 2**28), st.integers(0, 100))
def test_equal_weights_are_met_exactly(size: int, start: int, rounds: int) -> None:
    """In any number of rounds every host is picked once per round."""
    members = hosts(size)
    counted = Counter(picks(picker(members, start), members, size * rounds))
    assert counted == {place: rounds for place in range(size) if rounds}


@given(st.data())
def test_a_picker_names_hosts_of_its_own_membership_only(data: st.DataObject) -> None:
    """After any adoption, a removed host is never picked."""
    everyone = hosts(weights=data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=6)))
    current: Picker | None = None
    for _ in range(data.draw(st.integers(1, 8))):
        members = data.draw(st.lists(st.sampled_from(everyone), min_size=1, unique=True))
        current = picker(members, data.draw(st.integers(0, 1000)), current)
        for _ in range(data.draw(st.integers(0, 5))):
            assert current.pick(CALL, now=0.0) in members


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1], [1, 2, 3, 94]])
def test_shares(weights: list[int]) -> None:
    """Share is weight over the sum of weights, to within one call in 10,000."""
    found = shares(RoundRobin(), hosts(weights=weights), calls=10_000)
    assert list(found.values()) == pytest.approx([weight / sum(weights) for weight in weights], abs=1.01e-4)


def test_a_foreign_picker_before_it_is_none_of_its_business() -> None:
    """A picker adopts only from its own kind."""

    class Other(Picker):
        def pick(self, call: object, *, now: float) -> None:
            return None

    members = hosts(2)
    assert picks(picker(members, 0, Other()), members, 2) == [0, 1]
