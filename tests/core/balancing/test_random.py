"""Weighted random load balancing."""

from random import Random as Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.balancing import Random
from meshlib.testing.balancing import SimulatedCall, hosts, shares

CALL = SimulatedCall()


class Highest(Generator):
    """Always draws the greatest float below 1."""

    def random(self) -> float:
        return 1 - 2**-53


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1], [1, 2, 3, 4]])
def test_shares(weights: list[int]) -> None:
    """40,000 calls: each share within 0.01 of its weight (4 standard deviations of the widest); Envoy has 1/n each."""
    found = shares(Random(), hosts(weights=weights), calls=40_000, seed=3)
    assert list(found.values()) == pytest.approx([weight / sum(weights) for weight in weights], abs=0.01)


@given(st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=8), st.integers())
def test_a_picker_names_its_own_hosts_only(weights: list[int], seed: int) -> None:
    """For any weights and any randomness."""
    members = hosts(weights=weights)
    picker = Random().picker(members, rng=Generator(seed))
    assert all(picker.pick(CALL, now=0.0) in members for _ in range(20))


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=8))
def test_the_end_of_the_range_is_the_last_host(weights: list[float]) -> None:
    """A product that rounds up to the sum of the weights still gives a valid host."""
    members = hosts(len(weights))
    for host, weight in zip(members, weights, strict=True):
        host.weight = weight
    assert Random().picker(members, rng=Highest()).pick(CALL, now=0.0) in members


def test_weights_are_read_with_the_membership() -> None:
    """A changed weight counts for the next picker, not for this one."""
    members = hosts(weights=[1, 2])
    picker = Random().picker(members, rng=Highest())
    members[1].weight = 1e-30
    assert picker.pick(CALL, now=0.0) is members[1]
    assert Random().picker(members, rng=Generator(1)).pick(CALL, now=0.0) is members[0]
