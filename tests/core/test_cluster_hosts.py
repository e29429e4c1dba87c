"""The hosts of a channel: membership, connection states, and redialling. Each test sets the time."""

import pytest
from tests.core.channels import Channel
from tests.core.picks import shares, tiers
from tests.core.scripted import REFUSED, brief, ended

from meshlib._core.cluster import ClusterMachine
from meshlib._core.connectivity import READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.events import ResolutionFailed
from meshlib._core.host import HostEntry
from meshlib._core.status import OK, Outcome

# --- membership ----------------------------------------------------------------------


def test_a_new_host_joins_when_it_is_connected() -> None:
    """A new host is opened at once and picked only once it is ready."""
    channel = Channel.of("a")
    channel.resolve("a", "b", now=1.0)
    assert channel.opened == ["a", "b"]
    assert set(shares(channel)) == {"a"}
    channel.put("b", READY, now=2.0)
    assert shares(channel) == {"a": 30, "b": 30}
    assert channel.cluster.ready == 2


def test_the_same_answer_changes_nothing() -> None:
    """The same endpoints in any order open, close and rebuild nothing."""
    channel = Channel.of("a", "b")
    endpoints = (Endpoint(address="b"), Endpoint(address="a"))
    assert channel.cluster.on_resolved(Resolution(endpoints=endpoints), now=1.0) == ()


def test_a_removed_host_leaves_at_once_and_closes_when_idle() -> None:
    """A removed host gets no new call; the end of its last call closes it."""
    channel = Channel.of("a", "b")
    first, second = channel.call(), channel.call()
    for call in (first, second):
        call.begin(now=1.0)
    on_b = [call for call in (first, second) if call.tried[0].endpoint.address == "b"]
    assert len(on_b) == 1
    channel.resolve("a", now=2.0)
    assert set(shares(channel)) == {"a"}
    assert channel.closed == []
    before = channel.asked_for_attention
    on_b[0].on_outcome(1, OK, now=3.0)
    assert channel.asked_for_attention == before + 1
    channel.step(now=3.0)
    assert channel.closed == ["b"]
    channel.close(now=4.0)
    assert [link.closed for link in channel.every_link] == [1, 1]


def test_a_removed_host_without_calls_closes_at_once() -> None:
    """A host without calls has nothing to drain."""
    channel = Channel.of("a", "b")
    channel.resolve("b", now=1.0)
    assert channel.closed == ["a"]


@pytest.mark.parametrize("calls", [1, 0])
def test_a_removed_host_that_comes_back_keeps_its_connection(calls: int) -> None:
    """Resolved again before it was closed, it is the same host, even if its last call ended in between."""
    channel = Channel.of("a", "b")
    host = channel.host("a")
    call = channel.call()
    while call.begin(now=1.0)[0].record.host is not host:  # type: ignore[union-attr]
        call = channel.call()
    channel.resolve("b", now=2.0)
    assert channel.cluster.ready == 1
    if not calls:
        call.on_outcome(1, OK, now=2.5)  # before the control plane is notified
    channel.resolve("a", "b", now=3.0)
    assert channel.host("a") is host
    assert channel.opened == ["a", "b"]
    assert channel.closed == []
    assert channel.cluster.ready == 2
    assert set(shares(channel)) == {"a", "b"}


def test_a_removed_host_that_comes_back_connected_has_not_failed() -> None:
    """A host that reconnected while it was draining counts as connected, and is not dialled again."""
    channel = Channel.of(*tiers(a=0, b=1))
    flying = channel.call()
    assert brief(flying.begin(now=0.0)) == ["start 1 a first"]
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    channel.resolve(*tiers(b=1), now=2.0)
    channel.put("a", READY, now=3.0)
    channel.resolve(*tiers(a=0, b=1), now=4.0)
    assert shares(channel) == {"a": 60}
    assert channel.cluster.ready == 2


def test_a_change_of_weight_keeps_the_connection() -> None:
    """The picker is rebuilt with the new weights; the hosts stay."""
    channel = Channel.of("a", "b")
    hosts = list(channel.cluster.hosts)
    channel.resolve(Endpoint(address="a", weight=3), Endpoint(address="b"), now=1.0)
    assert list(channel.cluster.hosts) == hosts
    assert shares(channel, 40) == {"a": 30, "b": 10}
    assert channel.opened == ["a", "b"]


def test_one_address_under_two_authorities_is_two_hosts() -> None:
    """The authority identifies a connection; the priority does not, and the better one counts."""
    twice = (Endpoint(address="a", authority="x"), Endpoint(address="a", authority="y"))
    assert len(Channel.of(*twice).cluster.hosts) == 2
    channel = Channel.of(Endpoint(address="a", priority=2), Endpoint(address="a", priority=1, weight=7))
    (host,) = channel.cluster.hosts
    assert (host.endpoint.priority, host.endpoint.weight) == (1, 7)


def test_the_last_good_endpoints_stay() -> None:
    """A failed resolution removes no host; the failure is reported once."""
    channel = Channel.of("a", "b")
    channel.fail("SERVFAIL", now=1.0)
    channel.fail("SERVFAIL", now=2.0)
    assert shares(channel) == {"a": 30, "b": 30}
    assert channel.ear.heard(ResolutionFailed) == [ResolutionFailed(at=1.0, reason="SERVFAIL", kept=2)]


def test_a_subchannel_that_cannot_be_made() -> None:
    """The host counts as failing and gets no call; it is retried with the next resolution, not at every sweep."""
    channel = Channel()
    channel.unopenable.add("a")
    channel.resolve("a", now=0.0)
    call = channel.call()
    assert ended(call.begin(now=1.0)).code == "UNAVAILABLE"
    channel.step(now=1.0)
    assert channel.opened == ["a"]
    channel.unopenable.clear()
    channel.resolve("a", now=2.0)
    channel.put("a", READY, now=2.5)
    assert channel.opened == ["a", "a"]
    assert shares(channel) == {"a": 60}


def test_a_subchannel_that_comes_too_late() -> None:
    """A subchannel opened after its host was removed, or after the channel closed, is closed at once."""
    for end in ("removed", "closed"):
        channel = Channel(defer=True)
        channel.resolve("a", now=0.0)
        if end == "removed":
            channel.cluster.on_resolved(Resolution(endpoints=()), now=1.0)
        else:
            channel.cluster.close(now=1.0)
        channel.perform(now=2.0)
        assert [link.closed for link in channel.every_link] == [1]


# --- redialling --------------------------------------------------------------------


def test_fail_fast_is_sent_to_a_failing_host() -> None:
    """If all hosts fail, each attempt goes to another one, for grpc's own reason."""
    channel = Channel()
    channel.resolve("a", "b", now=0.0)
    call = channel.call()
    call.begin(now=0.0)
    channel.put("a", TRANSIENT_FAILURE, now=0.5)
    assert channel.woken == []
    channel.put("b", TRANSIENT_FAILURE, now=1.0)
    assert channel.woken == [call]
    (start,) = call.on_endpoints(now=1.0)
    other = channel.pick(call, now=1.0)
    assert {start.record.host.endpoint.address, other} == {"a", "b"}  # type: ignore[union-attr]


def test_a_host_that_was_lost_while_nobody_called_is_dialled_by_the_next_call() -> None:
    """The host may be back during a back-off of seconds: grpc's own channel would be idle, and dial at the call."""
    channel = Channel.of("a", "b")
    before = dict(channel.links)
    for name in "ab":
        channel.put(name, TRANSIENT_FAILURE, now=1.0)
    assert channel.opened == ["a", "b"]
    call = channel.call()
    assert call.begin(now=9.0) == ()
    channel.step(now=9.0)
    assert channel.opened == ["a", "b", "a", "b"]
    assert [link.closed for link in before.values()] == [1, 1]
    channel.put("b", READY, now=9.1)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=9.1)) == ["start 1 b first"]


def test_a_host_is_dialled_anew_once_a_loss() -> None:
    """The call that finds it lost gets the true reason; so does the next one, at once."""
    channel = Channel.of("a")
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    first, second = channel.call(), channel.call()
    assert first.begin(now=2.0) == ()
    channel.step(now=2.0)
    assert channel.host("a").dials == 1
    channel.put("a", TRANSIENT_FAILURE, now=2.1)
    assert brief(first.on_endpoints(now=2.1)) == ["start 1 a first"]
    assert brief(second.begin(now=2.2)) == ["start 1 a first"]
    channel.step(now=2.2)
    assert channel.opened == ["a", "a"]
    for call in (first, second):
        call.on_outcome(1, REFUSED, now=2.3)
    channel.put("a", READY, now=3.0)
    channel.put("a", TRANSIENT_FAILURE, now=4.0)
    assert channel.call().begin(now=5.0) == ()
    channel.step(now=5.0)
    assert channel.opened == ["a", "a", "a"]


def test_a_host_with_calls_in_flight_is_not_dialled_anew() -> None:
    """Its calls end with the true reason instead of being cancelled with their subchannel."""
    channel = Channel.of("a")
    flying = channel.call()
    flying.begin(now=0.0)
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    assert brief(channel.call().begin(now=1.0)) == ["start 1 a first"]
    channel.step(now=1.0)
    assert channel.opened == ["a"]


def test_a_connection_that_was_given_up_is_closed_with_the_channel() -> None:
    """If the channel closes before the control plane dials again, the old connection is closed too."""
    channel = Channel.of("a")
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    assert channel.call().begin(now=2.0) == ()
    channel.close(now=2.0)
    assert [link.closed for link in channel.every_link] == [1]
    channel.step(now=3.0)
    assert channel.opened == ["a"]


def test_a_subchannel_that_cannot_be_made_anew() -> None:
    """The host counts as failing, and the waiting call gets the reason."""
    channel = Channel.of("a")
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    call = channel.call()
    assert call.begin(now=2.0) == ()
    channel.unopenable.add("a")
    channel.step(now=2.0)
    assert channel.woken == [call]
    assert ended(call.on_endpoints(now=2.0)).local


def test_counts_of_a_host() -> None:
    """Every attempt is counted once, by its outcome."""
    channel = Channel.of("a")
    cluster: ClusterMachine = channel.cluster
    for outcome in (OK, OK, Outcome("NOT_FOUND")):
        host = cluster.pick(channel.call(), now=0.0)
        assert isinstance(host, HostEntry)
        assert (host.in_flight, cluster.in_flight) == (1, 1)
        cluster.report(host, outcome, 0.1, now=1.0)
    assert (host.in_flight, cluster.in_flight, host.successes, host.failures) == (0, 0, 2, 1)
