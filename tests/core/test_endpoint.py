"""Endpoints, as resolvers return them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.endpoint import MAX_WEIGHT, Endpoint, endpoint, merge_duplicates
from meshlib._core.errors import ConfigError


def test_equal_by_content() -> None:
    """An endpoint is a hashable value."""
    one, same = (Endpoint(address="10.0.0.1:1", attributes=(("zone", "a"),)) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Endpoint(address="10.0.0.1:1")


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("address", "", 'must be a string such as "10.0.0.7:50051" or "unix:/run/a.sock"'),
        ("address", 3, 'must be a string such as "10.0.0.7:50051" or "unix:/run/a.sock"'),
        ("weight", 0, "must be an integer from 1 to 4294967295"),
        ("weight", 2**32, "must be an integer from 1 to 4294967295"),
        ("weight", 1.0, "must be an integer from 1 to 4294967295"),
        ("weight", True, "must be an integer from 1 to 4294967295"),
        ("priority", -1, "must be an integer from 0 to 65535"),
        ("priority", 65536, "must be an integer from 0 to 65535"),
    ],
)
def test_what_is_refused(field: str, value: object, allowed: str) -> None:
    """The error has the field, the value and the allowed form."""
    given: dict[str, Any] = {"address": "10.0.0.1:1", field: value}
    with pytest.raises(ConfigError) as caught:
        Endpoint(**given)
    assert str(caught.value) == f"{field}={value!r}: {allowed}"


def test_merged() -> None:
    """Endpoints of equal address, authority and priority merge, weights added, in order of first occurrence."""
    a, b = Endpoint(address="a", weight=2), Endpoint(address="b")
    other = Endpoint(address="a", authority="x")
    worse = Endpoint(address="a", priority=1)
    assert merge_duplicates([a, b, a, other, worse]) == (Endpoint(address="a", weight=4), b, other, worse)


def test_weights_do_not_overflow() -> None:
    """A sum of weights stops at the maximum weight."""
    heavy = Endpoint(address="a", weight=MAX_WEIGHT)
    assert merge_duplicates([heavy, heavy]) == (heavy,)


@given(st.lists(st.builds(Endpoint, address=st.sampled_from("abc"), weight=st.integers(1, 5)), max_size=8))
def test_merging_loses_no_weight(endpoints: list[Endpoint]) -> None:
    """Merged endpoints keep the total weight, and merging again changes nothing."""
    once = merge_duplicates(endpoints)
    assert sum(each.weight for each in once) == sum(each.weight for each in endpoints)
    assert merge_duplicates(once) == once
    assert len({each.address for each in once}) == len(once)


@pytest.mark.parametrize("alternatives", ["[::1]:1", None, ["svc-a:1"], ["unix:/a"], ["[::1]"], [1]])
def test_bad_alternatives(alternatives: Any) -> None:
    """Alternatives are TCP addresses that need no lookup."""
    with pytest.raises(ConfigError, match="alternatives"):
        Endpoint(address="10.0.0.7:1", alternatives=alternatives)


def test_alternatives_are_a_tuple_and_tell_endpoints_apart() -> None:
    """A list becomes a tuple; a unix socket has none."""
    one, two = Endpoint(address="10.0.0.7:1", alternatives=["[::1]:1"]), Endpoint(address="10.0.0.7:1")  # type: ignore[arg-type]
    assert one.alternatives == ("[::1]:1",)
    assert one != two
    with pytest.raises(ConfigError, match="cannot be combined with a unix socket path"):
        Endpoint(address="unix:/a", alternatives=("[::1]:1",))


def test_a_host_with_several_addresses_is_one_endpoint() -> None:
    """At its first address, with the others as alternatives; IPv6 addresses are in brackets."""
    found = endpoint(("10.0.0.7", "2001:db8::7"), 50051, authority="svc-a")
    assert found == Endpoint(address="10.0.0.7:50051", alternatives=("[2001:db8::7]:50051",), authority="svc-a")
    assert endpoint(("::1",), 1) == Endpoint(address="[::1]:1")
