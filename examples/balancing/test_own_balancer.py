"""Unit test of the balancer: no server, no channel, no waiting, and the same result every time."""

import pytest
from own_balancer import NearFirst

from meshlib.balancing import LeastRequest
from meshlib.testing import hosts, shares

NEAR = ["10.0.1.1:50051", "10.0.1.2:50051"]
FAR = ["10.0.2.1:50051", "10.0.2.2:50051"]


def test_near_hosts_share_everything() -> None:
    found = shares(NearFirst(network="10.0.1.0/24"), hosts(NEAR + FAR), calls=1000)
    assert list(found.values()) == [0.5, 0.5, 0, 0]


def test_too_few_near_hosts_share_with_the_far_ones() -> None:
    found = shares(NearFirst(network="10.0.1.0/24"), hosts(NEAR[:1] + FAR), calls=999)
    assert list(found.values()) == pytest.approx([1 / 3] * 3)


def test_a_host_that_is_not_healthy_does_not_count_as_near() -> None:
    members = hosts(NEAR + FAR)
    members[0].healthy = False
    found = shares(NearFirst(network="10.0.1.0/24"), members, calls=999)
    assert list(found.values()) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


def test_the_balancer_among_them_sees_a_slow_host() -> None:
    members = hosts(NEAR + FAR)
    found = shares(
        NearFirst(network="10.0.1.0/24", among=LeastRequest()),
        members,
        seed=1,
        hold=lambda host: 40 if host is members[0] else 2,  # seconds; a call begins every second
    )
    assert found[NEAR[0]] < 0.3
    assert found[FAR[0]] == 0


@pytest.mark.parametrize("address", ["[fd00:1::7]:50051", "unix:/run/svc-a.sock"])
def test_addresses_of_every_kind(address: str) -> None:
    (host,) = hosts([address])
    assert NearFirst(network="fd00:1::/32").is_near(host)


def test_a_malformed_network_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.1\.0/99"):
        NearFirst(network="10.0.1.0/99")
