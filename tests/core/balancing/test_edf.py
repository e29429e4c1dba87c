"""The schedule by weight: Envoy's own cases, and invariants for any weights and membership changes."""

from collections import Counter
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.balancing.edf import Schedule, equal_weights
from meshlib.testing.balancing import SimulatedHost, hosts

WEIGHT = attrgetter("weight")
WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def schedule(members: tuple[SimulatedHost, ...], skipped: int = 0) -> Schedule:
    """A schedule by plain weight."""
    return Schedule(members, WEIGHT, skipped=skipped)


def picks(made_by: Schedule, members: tuple[SimulatedHost, ...], count: int) -> list[int]:
    """The next picks, as indexes in ``members``."""
    places = {host: place for place, host in enumerate(members)}
    return [places[made_by.pick()] for _ in range(count)]  # type: ignore[index]


def test_128_weights_are_met_exactly() -> None:
    """Envoy: EdfSchedulerTest.Weighted. In as many picks as the sum of the weights each host gets its weight."""
    members = hosts(weights=range(1, 129))
    counted = Counter(picks(schedule(members), members, 128 * 129 // 2))
    assert counted == {place: place + 1 for place in range(128)}


def test_equal_deadlines_go_to_whoever_waits_longest() -> None:
    """Envoy: EdfSchedulerTest.Unweighted. Equal weights are plain turns."""
    members = hosts(128)
    assert picks(schedule(members), members, 256) == [*range(128), *range(128)]


def test_the_first_pick_after_any_start_is_in_proportion() -> None:
    """Envoy: WeightedInitializationPicksAllHosts. Over ten starts weights 6, 3, 1 are first 6, 3, 1 times."""
    members = hosts(weights=[6, 3, 1])
    assert Counter(picks(schedule(members, skipped), members, 1)[0] for skipped in range(10)) == {0: 6, 1: 3, 2: 1}


def test_one_two_three() -> None:
    """Weights 1, 2, 3 interleave; a real Envoy sends rotations of this order."""
    members = hosts(weights=[1, 2, 3])
    assert picks(schedule(members), members, 12) == [2, 1, 2, 0, 1, 2] * 2


@given(WEIGHTS, st.integers(0, 429_496_728))
def test_every_start_is_as_good_as_another(weights: list[int], skipped: int) -> None:
    """From any start, each host stays within one pick of its share."""
    members = hosts(weights=weights)
    total = sum(weights)
    counted = Counter(picks(schedule(members, skipped), members, 3 * total))
    for place, weight in enumerate(weights):
        assert abs(counted[place] - 3 * weight) <= 1


@given(WEIGHTS)
def test_a_cycle_is_exact(weights: list[int]) -> None:
    """From the start, as many picks as the sum of the weights match the weights."""
    members = hosts(weights=weights)
    counted = Counter(picks(schedule(members), members, sum(weights)))
    assert counted == dict(enumerate(weights))


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.lists(st.tuples(st.sets(st.integers(2, 7)), st.integers(0, 6), st.integers(0, 10**6)), min_size=1, max_size=60),
)
def test_hosts_that_stay_keep_their_ratio_whatever_comes_and_goes(
    weights: tuple[int, int], changes: list[tuple[set[int], int, int]]
) -> None:
    """With a rebuild every few picks, two lasting hosts are never further apart than one pick each."""
    everyone = hosts(weights=[*weights, 1, 3, 5, 8, 13, 40])
    counted: Counter[object] = Counter()
    last: Schedule | None = None
    for others, count, skipped in changes:
        members = tuple(host for place, host in enumerate(everyone) if place < 2 or place in others)
        current = schedule(members, skipped)
        if last is not None:
            current.adopt(last)
        last = current
        for _ in range(count):
            chosen = current.pick()
            assert chosen in members
            counted[chosen] += 1
        turns = [counted[host] / host.weight for host in everyone[:2]]
        assert abs(turns[0] - turns[1]) <= 1 / everyone[0].weight + 1 / everyone[1].weight + 1e-6


@pytest.mark.parametrize("stay", [1, 2, 7])
def test_a_host_that_comes_and_goes_gets_its_share_of_the_time_it_is_there(stay: int) -> None:
    """Weight 3 of 6, 10,000 visits: half the picks, but for the tenth of a pick that each arrival may win."""
    everyone = hosts(weights=[1, 2, 3])
    here = 0
    total = 0
    last = schedule(everyone[:2])
    for visit in range(10_000):
        for members in (everyone, everyone[:2]):
            current = schedule(members, visit * 7919 % 1009)
            current.adopt(last)
            last = current
            chosen = picks(current, everyone, stay)
            if members is everyone:
                here += chosen.count(2)
                total += stay
    assert here / total == pytest.approx(0.5, abs=0.1 / stay)


def test_a_weight_that_swings_is_met_over_all() -> None:
    """Weight 1, then 9, then 1 ...: picks are the sum of weight times time, measured by a host picked 1,000 times."""
    members = hosts(weights=[1, 5, 1000])
    expected = 0.0
    counted = 0
    last: Schedule | None = None
    for phase in range(20):
        members[0].weight = 9 if phase % 2 else 1
        current = schedule(members, phase)
        if last is not None:
            current.adopt(last)
        last = current
        chosen = picks(current, members, 300 * (phase + 1))
        counted += chosen.count(0)
        expected += members[0].weight * chosen.count(2) / 1000
    assert counted == pytest.approx(expected, abs=1.5)


def test_a_weight_that_grows_is_felt_at_the_next_membership() -> None:
    """A host of weight 1, due once in thousands of picks, has its new share at once."""
    members = hosts(weights=[1, 1000])
    before = schedule(members)
    picks(before, members, 10)
    members[0].weight = 1000
    after = schedule(members, 5)
    after.adopt(before)
    assert picks(after, members, 100).count(0) == pytest.approx(50, abs=1)


def test_a_new_host_that_ties_with_the_one_picked_last_comes_after_it() -> None:
    """On equal deadlines and weights the older host goes first, and hosts themselves are never compared."""
    members = hosts(weights=[1, 1, 2])
    before = schedule((members[0], members[2]))
    assert picks(before, members, 2) == [2, 0]
    after = schedule((members[1], members[0], members[2]))
    after.adopt(before)
    assert picks(after, members, 4) == [2, 2, 0, 1]


def test_virtual_time_starts_anew_with_a_membership() -> None:
    """A long run at small weights leaves enough precision for the greatest possible weight."""
    members = hosts(weights=[1, 2])
    last = schedule(members, 429_496_728)
    for host in members:
        host.weight = 2.0**32 - 1
    current = schedule(members)
    current.adopt(last)
    assert picks(current, members, 1000).count(0) == pytest.approx(500, abs=1)


def test_equal_weights() -> None:
    """A single host counts as equal; any difference counts."""
    assert equal_weights(hosts(1))
    assert equal_weights(hosts(weights=[7, 7, 7]))
    assert not equal_weights(hosts(weights=[7, 7, 8]))
