"""SRV records as endpoints: tiers, shares, and RFC 2782's rules for a weight of 0 and a target of "."."""

import math
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.discovery.srv import SrvRecord, endpoints, targets
from meshlib._core.endpoint import MAX_WEIGHT

HOSTS = {f"t{n}": (f"10.0.0.{n}",) for n in range(10)}


def record(target: str, *, weight: int = 0, priority: int = 0, port: int = 80) -> SrvRecord:
    """A record, with the usual fields omitted."""
    return SrvRecord(priority=priority, weight=weight, port=port, target=target)


def alone(hosts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[tuple[str], ...]]:
    """Each address is a separate host."""
    return {name: tuple((ip,) for ip in ips) for name, ips in hosts.items()}


def shares(*records: SrvRecord, hosts: dict[str, tuple[str, ...]] | None = None) -> list[tuple[str, int, int]]:
    """Address, weight and priority of the endpoints."""
    found = endpoints(records, alone(HOSTS if hosts is None else hosts))
    return [(endpoint.address, endpoint.weight, endpoint.priority) for endpoint in found]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((0, 0, 0), (1, 1, 1)),
        ((3, 1), (3, 1)),
        ((65535, 1), (65535, 1)),
        ((10, 0, 5), (200, 1, 100)),
        ((1, 0), (100, 1)),
        ((0,), (1,)),
    ],
)
def test_weights(weights: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """The weight is the share; if all are 0 the shares are equal; otherwise a 0 counts as 1 % of the smallest."""
    records = [record(f"t{n}", weight=weight) for n, weight in enumerate(weights)]
    assert {address: weight for address, weight, _ in shares(*records)} == {
        f"10.0.0.{n}:80": weight for n, weight in enumerate(expected)
    }


def test_priorities_are_tiers_of_their_own() -> None:
    """A 0 is compared only with weights of its priority; the order is that of the priorities."""
    found = shares(
        record("t3", weight=0, priority=20),
        record("t1", weight=2, priority=10),
        record("t2", weight=0, priority=10),
        record("t4", weight=0, priority=20),
    )
    assert found == [("10.0.0.2:80", 1, 10), ("10.0.0.1:80", 100, 10), ("10.0.0.3:80", 1, 20), ("10.0.0.4:80", 1, 20)]


def test_a_target_with_several_addresses_divides_its_share() -> None:
    """Two records 3:1 stay 3:1, for any number of addresses of the first."""
    hosts = {"a": ("10.0.0.1", "10.0.0.2"), "b": ("10.0.0.3",)}
    found = shares(record("a", weight=3), record("b", weight=1), hosts=hosts)
    assert found == [("10.0.0.3:80", 2, 0), ("10.0.0.1:80", 3, 0), ("10.0.0.2:80", 3, 0)]


def test_equal_addresses_merge() -> None:
    """Two targets on one machine are one endpoint with both weights; different ports are two endpoints."""
    hosts = {"a": ("10.0.0.1",), "b": ("10.0.0.1",)}
    assert shares(record("a", weight=3), record("b", weight=1), hosts=hosts) == [("10.0.0.1:80", 4, 0)]
    assert len(shares(record("a", port=80), record("b", port=81), hosts=hosts)) == 2
    assert shares(record("a", priority=1), record("b", priority=0), hosts=hosts) == [("10.0.0.1:80", 1, 0)]


def test_ipv6() -> None:
    """IPv6 addresses are in brackets, in one spelling."""
    assert shares(record("a"), hosts={"a": ("FE80:0::1",)}) == [("[fe80::1]:80", 1, 0)]


def test_a_host_with_two_addresses_is_one_endpoint() -> None:
    """Its weight is not divided; the addresses after the first are alternatives, with the port of the record."""
    found = endpoints(
        [record("a", weight=3), record("b", weight=1)], {"a": [("10.0.0.1", "fd00::1")], "b": [("10.0.0.2",)]}
    )
    assert [(each.address, each.weight, each.alternatives) for each in found] == [
        ("10.0.0.2:80", 1, ()),
        ("10.0.0.1:80", 3, ("[fd00::1]:80",)),
    ]


def test_a_dot_means_not_offered() -> None:
    """The target "." names no host, with or without other records; a record with port 0 names none either."""
    assert targets([record("")]) == ()
    assert shares(record("")) == []
    assert targets([record(""), record("t1"), record("t2", port=0)]) == ("t1",)
    assert shares(record(""), record("t1"), record("t2", port=0)) == [("10.0.0.1:80", 1, 0)]


def test_each_target_is_looked_up_once() -> None:
    """Records on several ports of one host cause one lookup."""
    assert targets([record("t1", port=1), record("t2"), record("t1", port=2)]) == ("t1", "t2")


def test_a_target_without_address_is_left_out() -> None:
    """A pod that is in SRV but not yet in A does not reduce the shares of others."""
    assert shares(record("t1", weight=1), record("gone", weight=9)) == [("10.0.0.1:80", 1, 0)]


@given(
    st.lists(
        st.builds(
            SrvRecord,
            priority=st.integers(0, 3),
            weight=st.integers(0, 65535),
            port=st.integers(0, 3),
            target=st.sampled_from(["", *HOSTS]),
        )
    ),
    st.fixed_dictionaries(
        {name: st.lists(st.sampled_from([f"10.0.0.{n}" for n in range(6)]), max_size=4, unique=True).map(tuple)
         for name in HOSTS}
    ),
)  # fmt: skip
def test_the_shares_are_those_of_the_records(records: list[SrvRecord], hosts: dict[str, tuple[str, ...]]) -> None:
    """Any records: addresses are unique, weights are valid, and shares are exact if 32 bits suffice."""
    found = endpoints(records, alone(hosts))
    assert len({endpoint.address for endpoint in found}) == len(found)
    assert all(1 <= endpoint.weight <= MAX_WEIGHT for endpoint in found)
    assert found == endpoints(reversed(records), alone(hosts))

    seen: set[str] = set()
    for priority in sorted({endpoint.priority for endpoint in found}):
        tier = [r for r in records if r.priority == priority and r.port and hosts.get(r.target)]
        smallest = min((r.weight for r in tier if r.weight), default=100)
        wanted: dict[str, Fraction] = defaultdict(Fraction)
        for r in tier:
            for ip in hosts[r.target]:
                wanted[f"{ip}:{r.port}"] += Fraction(r.weight or Fraction(smallest, 100)) / len(hosts[r.target])
        got = {e.address: e.weight for e in found if e.priority == priority}
        assert got.keys() == wanted.keys() - seen
        seen |= wanted.keys()
        if max(wanted.values()) * math.lcm(*(w.denominator for w in wanted.values())) <= MAX_WEIGHT:
            assert len({Fraction(weight) / wanted[address] for address, weight in got.items()}) == 1


def test_shares_that_32_bits_cannot_hold() -> None:
    """Targets of 5, 7, 11 ... 29 addresses have no small common denominator: shares are nearly equal."""
    sizes = (5, 7, 11, 13, 17, 19, 23, 29)
    hosts = {f"t{size}": tuple(f"10.0.{size}.{n}" for n in range(size)) for size in sizes}
    found = endpoints([record(target, weight=65535) for target in hosts], alone(hosts))
    assert max(endpoint.weight for endpoint in found) == MAX_WEIGHT
    for size in sizes:
        share = sum(endpoint.weight for endpoint in found if endpoint.address.startswith(f"10.0.{size}."))
        assert share == pytest.approx(5 * MAX_WEIGHT, rel=1e-6)
