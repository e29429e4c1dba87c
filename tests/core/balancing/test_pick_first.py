"""Pick first: one host until it is removed."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from meshlib.balancing import Picker, PickFirst, RoundRobin
from meshlib.testing.balancing import SimulatedCall, SimulatedHost, hosts, shares

CALL = SimulatedCall()


def picker(members: tuple[SimulatedHost, ...], previous: Picker | None = None) -> Picker:
    """A picker for ``members``, replacing ``previous``."""
    made = PickFirst().picker(members, rng=Random(0))
    if previous is not None:
        made.adopt(previous, now=0.0)
    return made


def test_everything_goes_to_the_first() -> None:
    """In the resolver's order, for any weights."""
    assert list(shares(PickFirst(), hosts(weights=[1, 9, 9])).values()) == [1, 0, 0]


def test_the_next_when_it_is_gone_and_no_way_back() -> None:
    """A host that returns does not get its calls back."""
    a, b, c = hosts(3)
    first = picker((a, b, c))
    second = picker((b, c), first)
    third = picker((a, b, c), second)
    assert [each.pick(CALL, now=0.0) for each in (first, second, third)] == [a, b, b]


def test_a_retry_goes_down_the_list() -> None:
    """The first untried host; the first again when all are tried."""
    a, b, c = hosts(3)
    kept = picker((a, b, c), picker((b,)))
    assert kept.pick(SimulatedCall(tried=(b,)), now=0.0) is a
    assert kept.pick(SimulatedCall(tried=(b, a)), now=0.0) is c
    assert kept.pick(SimulatedCall(tried=(b, a, c)), now=0.0) is b


@given(st.data())
def test_it_moves_only_when_it_must(data: st.DataObject) -> None:
    """After any changes the host stays the same if it is still a member; otherwise it is the first in order."""
    everyone = hosts(5)
    current: Picker | None = None
    last = None
    for _ in range(data.draw(st.integers(1, 10))):
        members = tuple(data.draw(st.lists(st.sampled_from(everyone), min_size=1, unique=True)))
        current = picker(members, current)
        expected = last if last in members else members[0]
        last = current.pick(CALL, now=0.0)
        assert last is expected


def test_there_is_nothing_to_take_over_from_another_balancer() -> None:
    """The first host in the resolver's order is picked."""
    members = hosts(3)
    made = picker(members, RoundRobin().picker(members[::-1], rng=Random(0)))
    assert made.pick(CALL, now=0.0) is members[0]
