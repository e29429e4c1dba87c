"""The machine of one service: its end, its events, and the host of a retry. Each test sets the time."""

from collections import Counter

import pytest
from tests.core.channels import Channel
from tests.core.scripted import UNAVAILABLE, brief, ended

from meshlib._core.attempts.policy import RetryPolicy
from meshlib._core.balancing.contracts import Host, Picker, PickInfo
from meshlib._core.cluster import CLOSED
from meshlib._core.commands import Close, Open, Rebuild, RequestReresolution, StateChanged, Wake
from meshlib._core.connectivity import CONNECTING, READY, SHUTDOWN, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.events import EndpointsChanged, HostStateChanged
from meshlib._core.host import HostEntry

# --- the end -------------------------------------------------------------------------


def test_close() -> None:
    """Every host is closed once, with or without calls in flight; waiting calls end with "Channel closed!"."""
    channel = Channel.of("a", "b")
    flying = channel.call()
    flying.begin(now=0.0)
    channel.resolve("b", now=0.5)
    channel.put("b", CONNECTING, now=1.0)
    waiting = channel.call(wait_for_ready=True)
    waiting.begin(now=1.0)
    asked = channel.asked_for_attention
    channel.close(now=2.0)
    assert channel.asked_for_attention == asked, "close() returns all remaining commands"
    assert channel.woken == [waiting]
    outcome = ended(waiting.on_endpoints(now=2.0))
    assert (outcome.code, outcome.details) == ("CANCELLED", "Channel closed!")
    assert [link.closed for link in channel.every_link] == [1, 1]
    assert channel.states[-1] == SHUTDOWN
    assert flying.on_outcome(1, UNAVAILABLE, now=3.0) != ()
    channel.step(now=3.0)
    assert [link.closed for link in channel.every_link] == [1, 1]


def test_a_call_that_backs_off_is_woken_by_close() -> None:
    """A closed channel never satisfies its wait."""
    channel = Channel.of("a")
    call = channel.call(RetryPolicy())
    call.begin(now=0.0)
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    channel.close(now=1.001)
    assert channel.woken == [call]
    assert ended(call.on_endpoints(now=1.001)) is CLOSED
    assert channel.cluster.budget.held == 0


def test_nothing_happens_after_the_end() -> None:
    """Every input is legal and does nothing; no connection is polled again."""
    channel = Channel.of("a")
    host = channel.host("a")
    channel.close(now=1.0)
    cluster = channel.cluster
    assert cluster.close(now=2.0) == ()
    assert cluster.on_resolved(Resolution(endpoints=(Endpoint(address="b"),)), now=2.0) == ()
    assert cluster.on_resolution_failed("no", now=2.0) == ()
    assert cluster.on_connectivity(host, TRANSIENT_FAILURE, now=2.0) == ()
    assert cluster.on_timer(now=2.0) == ()
    assert cluster.rebuild(now=2.0) == ()
    assert cluster.next_timer() is None
    assert cluster.pick(channel.call(), now=2.0) is CLOSED
    assert cluster.connectivity == SHUTDOWN
    assert cluster.ready == 0


# --- events ---------------------------------------------------------------------------


def test_what_an_observer_hears() -> None:
    """Events of added and removed endpoints and of connections arrive outside the lock and in order."""
    channel = Channel()
    channel.resolve("a", "b", now=1.0)
    channel.put("a", READY, now=2.0)
    channel.resolve("a", "c", now=3.0)
    assert channel.ear.channel == [
        EndpointsChanged(at=1.0, added=("a", "b"), removed=()),
        HostStateChanged(at=2.0, address="a", before="CONNECTING", after="READY"),
        EndpointsChanged(at=3.0, added=("c",), removed=("b",)),
    ]


def test_snapshot_and_repr() -> None:
    """A channel's state can be printed."""
    channel = Channel.of(Endpoint(address="a", weight=2, priority=1))
    assert channel.pick() == "a"
    (host,) = channel.cluster.snapshot(now=0.0)
    assert (host.address, host.state, host.in_flight, host.weight) == ("a", "READY", 0, 2)
    assert (host.priority, host.successes, host.failures) == (1, 1, 0)
    assert repr(channel.cluster) == "<ClusterMachine svc-a 1 ready of 1 READY>"
    assert repr(channel.host("a")) == "<Host a READY in_flight=0>"


def test_commands_can_be_read() -> None:
    """The repr of a command shows its content."""
    host = HostEntry(Endpoint(address="a"))
    commands = [Open(host), Close(host), RequestReresolution(), Rebuild(), Wake(()), StateChanged(READY)]
    assert [repr(command) for command in commands] == [
        "<open a>",
        "<close a>",
        "<request re-resolution>",
        "<rebuild>",
        "<wake 0>",
        "<state 2>",
    ]


# --- another host ------------------------------------------------------------------


def test_another_host_first() -> None:
    """An attempt goes to an untried host if there is one; otherwise to any ready host."""
    channel = Channel.of("a", "b", "c")
    for _ in range(20):
        call = channel.call()
        call.tried = (channel.host("a"), channel.host("b"))
        assert channel.pick(call) == "c"
        call.tried += (channel.host("c"),)
        assert channel.pick(call) in {"a", "b", "c"}


class Stubborn(Picker):
    """Returns the first host a number of times before it changes."""

    def __init__(self, hosts: tuple[Host, ...], asked: Counter[str]) -> None:
        self._hosts = hosts
        self._asked = asked

    def pick(self, call: PickInfo, *, now: float) -> Host:
        self._asked["pick"] += 1
        return self._hosts[0]


@pytest.mark.parametrize(("limit", "asked", "again"), [(0, 1, "a"), (1, 2, "a"), (3, 4, "a"), (None, 4, "b")])
def test_host_selection_retry_max_attempts(limit: int | None, asked: int, again: str) -> None:
    """Envoy: the pick is repeated this often for an untried host, then the last pick is used. Without a limit the call
    goes to an untried host."""
    counted: Counter[str] = Counter()

    class Balancer:
        def picker(self, hosts: tuple[Host, ...], *, rng: object) -> Picker:
            return Stubborn(hosts, counted)

    channel = Channel.of("a", "b", balancer=Balancer())  # type: ignore[arg-type]
    call = channel.call(RetryPolicy(host_selection_retry_max_attempts=limit))
    assert brief(call.begin(now=0.0)) == ["start 1 a first"]
    call.on_outcome(1, UNAVAILABLE, now=0.1)
    counted.clear()
    timer = call.next_timer()
    assert timer is not None
    assert brief(call.on_timer(now=timer)) == [f"start 2 {again} retry"]
    assert counted["pick"] == asked
