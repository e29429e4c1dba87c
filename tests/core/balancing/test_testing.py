"""The bench for balancers: its hosts, and its simulation of calls."""

import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from meshlib._core.errors import ConfigError
from meshlib.balancing import Balancer, Host, LeastRequest, Picker, PickInfo, Report, RoundRobin
from meshlib.balancing import Random as RandomBalancer
from meshlib.discovery import Endpoint
from meshlib.testing.balancing import SimulatedCall, hosts, shares


@dataclass(frozen=True, kw_only=True)
class Diary:
    """A balancer that picks the first host and records its callbacks."""

    stale_at: float = math.inf
    told: list[tuple[Any, ...]] = field(default_factory=list)

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """A picker that records into the diary."""
        self.told.append(("picker", len(hosts)))
        return DiaryPicker(hosts, self)


class DiaryPicker(Picker):
    """Picker of :class:`Diary`."""

    def __init__(self, hosts: tuple[Host, ...], diary: Diary) -> None:
        self.hosts = hosts
        self.told = diary.told
        built = sum(entry[0] == "picker" for entry in diary.told)
        self.stale_at = diary.stale_at * built

    def pick(self, call: PickInfo, *, now: float) -> Host | None:
        self.told.append(("pick", now, self.hosts[0].in_flight))
        return self.hosts[0]

    def adopt(self, previous: Picker, *, now: float) -> None:
        self.told.append(("adopt", now))

    def done(self, host: Host, report: Report, *, now: float) -> None:
        self.told.append(("done", now, report.code, report.seconds))


def test_hosts_by_number() -> None:
    """Distinct addresses, weight 1, idle and healthy."""
    made = hosts(300)
    assert len({host.endpoint.address for host in made}) == 300
    assert made[0].endpoint.address == "10.0.0.1:50051"
    assert {(host.weight, host.in_flight, host.healthy) for host in made} == {(1, 0, True)}


def test_hosts_by_weight_address_and_endpoint() -> None:
    """The weight applies to the host and its endpoint; the rest of an endpoint stays."""
    assert [host.weight for host in hosts(weights=[3, 1])] == [3, 1]
    named = hosts(["[::1]:5000", Endpoint(address="unix:/run/a.sock", locality="eu-1a")], weights=[1, 7])
    assert [host.endpoint for host in named] == [
        Endpoint(address="[::1]:5000"),
        Endpoint(address="unix:/run/a.sock", locality="eu-1a", weight=7),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "hosts=[]: must name at least one host"),
        ({"of": 0}, "hosts=[]: must name at least one host"),
        ({"of": 2, "weights": [1]}, "weights=[1]: must have one weight for each of the 2 hosts"),
        ({"weights": [0]}, "weight=0: must be an integer from 1"),
        ({"of": [""]}, "address='': must be a string"),
    ],
)
def test_hosts_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    """The error has the field, the value and the allowed form."""
    with pytest.raises(ConfigError) as raised:
        hosts(**arguments)
    assert str(raised.value).startswith(message)


def test_calls_begin_one_a_second_and_last_as_long_as_told() -> None:
    """A call of 1.5 s is in flight at the next pick and gone at the one after; its end is reported at its time."""
    diary = Diary()
    assert shares(diary, hosts(1), calls=4, hold=1.5) == {"10.0.0.1:50051": 1.0}
    assert diary.told == [
        ("picker", 1),
        ("pick", 0.0, 0),
        ("pick", 1.0, 1),
        ("done", 1.5, "OK", 1.5),
        ("pick", 2.0, 1),
        ("done", 2.5, "OK", 1.5),
        ("pick", 3.0, 1),
    ]


def test_a_stale_picker_is_replaced_before_the_pick() -> None:
    """It is rebuilt at its second, with the previous picker."""
    diary = Diary(stale_at=2.0)
    shares(diary, hosts(2), calls=4)
    assert [entry for entry in diary.told if entry[0] != "done"] == [
        ("picker", 2),
        ("pick", 0.0, 0),
        ("pick", 1.0, 0),
        ("picker", 2),
        ("adopt", 2.0),
        ("pick", 2.0, 0),
        ("pick", 3.0, 0),
    ]


def test_the_hosts_are_left_as_they_were() -> None:
    """The picker sees earlier in-flight counts, which remain afterwards; nothing else does."""
    members = hosts(2)
    members[0].in_flight = 7
    found = shares(LeastRequest(), members, calls=1000, hold=2.0)
    assert found["10.0.0.1:50051"] < 0.35
    assert [host.in_flight for host in members] == [7, 0]


def test_hosts_that_are_not_healthy_are_left_out() -> None:
    """As in a channel; they have no calls in the result. If all are unhealthy, it is an error."""
    members = hosts(3)
    members[1].healthy = False
    assert shares(RoundRobin(), members, calls=100) == {
        "10.0.0.1:50051": 0.5,
        "10.0.0.2:50051": 0.0,
        "10.0.0.3:50051": 0.5,
    }
    members[0].healthy = members[2].healthy = False
    with pytest.raises(ConfigError, match="must have at least one healthy host"):
        shares(RoundRobin(), members)


@pytest.mark.parametrize("balancer", [RoundRobin(), LeastRequest(), RandomBalancer()])
def test_the_seed_decides(balancer: Balancer) -> None:
    """Equal seeds give equal shares to the last call; another seed gives another run."""
    one, two, other = (shares(balancer, hosts(7), calls=1000, seed=seed, hold=3.0) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_a_picker_that_names_no_host_of_its_own_is_caught() -> None:
    """None, and a host of another membership."""

    @dataclass(frozen=True)
    class Always:
        answer: Host | None

        def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Any:
            return self

        def pick(self, call: PickInfo, *, now: float) -> Host | None:
            return self.answer

    for answer in (None, hosts(1)[0]):
        with pytest.raises(AssertionError, match="not one of its 2 hosts"):
            shares(Always(answer), hosts(2))


def test_a_call_by_hand() -> None:
    """A picker with only ``pick`` is enough, and the test determines the call."""
    call = SimulatedCall(method="/a.B/C", metadata=(("tenant", "x"),), hash=5, tried=hosts(1))
    assert (call.method, call.metadata, call.hash, len(call.tried)) == ("/a.B/C", (("tenant", "x"),), 5, 1)
