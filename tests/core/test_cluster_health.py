"""Ejection and panic through the machines of cluster and call, and their events."""

import pytest
from tests.core.channels import Channel
from tests.core.scripted import UNAVAILABLE, brief, ended

from meshlib._core.attempts.policy import RetryPolicy
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.call import Call
from meshlib._core.connectivity import READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import (
    AttemptEnded,
    AttemptStarted,
    Ejected,
    HostEjected,
    HostReturned,
    HostSpared,
    PanicChanged,
)
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.status import OK, Outcome
from meshlib._core.view import CallMesh

ONE = OutlierDetection(consecutive_gateway_failure=1, interval=1.0, base_ejection_time=1.0, max_ejection_percent=100)


def attempt_on(channel: Channel, address: str, outcome: Outcome, *, now: float) -> Call:
    """A call whose only attempt went to ``address`` and ended with ``outcome``; other attempts on the way succeed."""
    while True:
        call = channel.call(observer=channel.ear)
        commands = call.begin(now=now)
        assert brief(commands)[0].startswith("start"), commands
        chosen = call.attempts[0].host.endpoint.address
        call.on_outcome(1, outcome if chosen == address else OK, now=now)
        channel.step(now=now)
        if chosen == address:
            return call


def picks(channel: Channel, count: int, *, now: float) -> set[str]:
    """The addresses of ``count`` picks."""
    return {channel.pick(now=now) for _ in range(count)}


def test_an_ejected_host_gets_no_call_until_it_comes_back() -> None:
    """An ejected host is skipped at once, before the picker is rebuilt; it stays connected and returns at a sweep."""
    channel = Channel.of("a", "b", "c", outlier_detection=ONE)
    call = channel.call()
    call.begin(now=0.1)
    gone = call.attempts[0].host.endpoint.address
    call.on_outcome(1, UNAVAILABLE, now=0.1)
    others = {"a", "b", "c"} - {gone}
    assert picks(channel, 30, now=0.2) == others
    channel.step(now=0.3)
    assert picks(channel, 30, now=0.4) == others
    assert not channel.links[gone].closed
    channel.step(now=1.0)
    assert picks(channel, 30, now=1.0) == others
    channel.step(now=2.0)
    assert picks(channel, 30, now=2.0) == {"a", "b", "c"}
    assert [event.address for event in channel.ear.heard(HostReturned)] == [gone]


def test_why_a_call_went_where_it_went() -> None:
    """The ejection is in the channel's events, in its snapshot, and with the attempt that caused it."""
    channel = Channel.of("a", "b", "c", outlier_detection=ONE)
    call = attempt_on(channel, "b", UNAVAILABLE, now=0.25)
    why = "1 gateway failures in a row, last=UNAVAILABLE"
    (event,) = channel.ear.heard(HostEjected)
    assert (event.address, event.why, event.seconds) == ("b", why, 1.0)
    shown = {host.address: (host.ejected_until, host.ejected_for) for host in channel.cluster.snapshot(now=0.5)}
    assert shown == {"a": (None, ""), "b": (0.75, why), "c": (None, "")}
    (attempt,) = CallMesh(call).attempts
    assert attempt.ejected == why
    told = [event for event in channel.ear.calls if isinstance(event, AttemptEnded | Ejected)][-2:]
    assert [type(event) for event in told] == [AttemptEnded, Ejected]


def test_an_outlier_that_stays_is_told_of() -> None:
    """The event has the reason why the outlier is not ejected."""
    channel = Channel.of("a", "b", outlier_detection=OutlierDetection(consecutive_gateway_failure=1))
    attempt_on(channel, "a", UNAVAILABLE, now=0.1)
    attempt_on(channel, "b", UNAVAILABLE, now=0.2)
    (event,) = channel.ear.heard(HostSpared)
    assert (event.address, event.spared) == ("b", "1 of 2 hosts are ejected, max_ejection_percent=10")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("CANCELLED", "by the caller"),
        Outcome("UNAVAILABLE", "refused", refused=True),
        Outcome("INTERNAL", "an interceptor raised", local=True),
    ],
)
def test_what_is_not_judged(outcome: Outcome) -> None:
    """A cancelled, unsent or local outcome does not count against the host."""
    channel = Channel.of("a", outlier_detection=OutlierDetection(consecutive_gateway_failure=1, consecutive_5xx=1))
    call = channel.call()
    call.begin(now=0.1)
    call.on_outcome(1, outcome, now=0.1)
    assert channel.host("a").ejection is None
    assert channel.cluster.outliers is not None
    assert channel.cluster.outliers.detected == 0


def test_the_calls_that_a_connection_takes_with_it_are_one_failure() -> None:
    """A crash of a busy server ejects no host; repeatedly lost connections do."""
    channel = Channel.of("a", outlier_detection=OutlierDetection(consecutive_gateway_failure=2))
    broken = Outcome("UNAVAILABLE", "Socket closed", answered=False)
    calls = [channel.call() for _ in range(8)]
    for call in calls:
        call.begin(now=0.1)
    for call in calls:
        call.on_outcome(1, broken, now=0.2)
    assert channel.host("a").ejection is None
    attempt_on(channel, "a", broken, now=0.3)
    assert channel.host("a").ejection is not None


def test_a_success_in_between_counts() -> None:
    """A success resets the count, even of a call that began before the failures."""
    channel = Channel.of("a", outlier_detection=OutlierDetection(consecutive_gateway_failure=2))
    for outcome in (UNAVAILABLE, OK, UNAVAILABLE):
        attempt_on(channel, "a", outcome, now=0.1)
    assert channel.host("a").ejection is None
    attempt_on(channel, "a", UNAVAILABLE, now=0.1)
    assert channel.host("a").ejection is not None


def test_panic() -> None:
    """Two of four are enough; with one of four all are used, and each attempt says so."""
    channel = Channel.of("a", "b", "c", "d", outlier_detection=ONE)
    for name in "ab":
        attempt_on(channel, name, UNAVAILABLE, now=0.1)
    assert picks(channel, 40, now=0.2) == {"c", "d"}
    assert channel.cluster.panic == ()
    attempt_on(channel, "c", UNAVAILABLE, now=0.3)
    assert picks(channel, 40, now=0.3) == {"a", "b", "c", "d"}
    assert channel.cluster.panic == (0,)
    call = attempt_on(channel, "a", OK, now=0.4)
    assert CallMesh(call).attempts[0].panic
    assert [event for event in channel.ear.calls if isinstance(event, AttemptStarted)][-1].panic
    channel.step(now=1.0)
    channel.step(now=2.0)
    assert channel.cluster.panic == ()
    assert [event.priorities for event in channel.ear.heard(PanicChanged)] == [(0,), ()]


def test_all_ejected_without_panic() -> None:
    """Envoy: "no healthy upstream". A call fails at once, or waits for a host to return if it waits for ready."""
    priorities = Priorities(healthy_panic_threshold=0)
    channel = Channel.of("a", "b", balancer=priorities, outlier_detection=ONE)
    for name in "ab":
        attempt_on(channel, name, UNAVAILABLE, now=0.1)
    outcome = ended(channel.call().begin(now=0.2))
    assert outcome.local
    assert outcome.details == "no endpoint of 'svc-a' is ready: 2 ejected"
    assert outcome.more == "a ejected, b ejected"
    waiting = channel.call(wait_for_ready=True)
    assert waiting.begin(now=0.2) == ()
    channel.step(now=1.0)
    assert channel.woken == []
    channel.step(now=2.0)
    assert channel.woken == [waiting]


def test_a_call_that_waits_hears_that_all_are_ejected() -> None:
    """A call waits for a connecting host; when that host fails, the call gets the reason."""
    channel = Channel(balancer=Priorities(healthy_panic_threshold=0), outlier_detection=ONE)
    channel.resolve("a", "b", now=0.0)
    channel.put("a", READY, now=0.0)
    attempt_on(channel, "a", UNAVAILABLE, now=0.1)
    call = channel.call()
    assert call.begin(now=0.2) == ()
    channel.put("b", TRANSIENT_FAILURE, now=0.3)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=0.3)) == ["start 1 b first"]


def test_a_tier_fails_over_when_all_of_it_is_ejected() -> None:
    """Strict tiers: the next one gets every call until the first returns."""
    endpoints = [Endpoint(address=name, priority=priority) for name, priority in (("a", 0), ("b", 0), ("c", 1))]
    channel = Channel.of(*endpoints, outlier_detection=ONE)
    for name in "ab":
        attempt_on(channel, name, UNAVAILABLE, now=0.1)
    assert picks(channel, 10, now=0.2) == {"c"}
    channel.step(now=1.0)
    channel.step(now=2.0)
    assert picks(channel, 10, now=2.0) == {"a", "b"}


def test_a_retry_leaves_the_host_that_its_failure_ejected() -> None:
    """This holds before the balancer is notified."""
    channel = Channel.of("a", "b", outlier_detection=ONE)
    call = channel.call(RetryPolicy())
    call.begin(now=0.1)
    first = call.attempts[0].host
    call.on_outcome(1, UNAVAILABLE, now=0.1)
    timer = call.next_timer()
    assert timer is not None
    call.on_timer(now=timer)
    assert first.ejection is not None
    assert call.attempts[1].host is not first


def test_a_host_that_left_is_not_judged() -> None:
    """Its last calls may fail: it is draining."""
    channel = Channel.of("a", "b", outlier_detection=ONE)
    call = channel.call()
    call.begin(now=0.1)
    host = call.attempts[0].host
    channel.resolve(*{"a", "b"} - {host.endpoint.address}, now=0.2)
    call.on_outcome(1, UNAVAILABLE, now=0.3)
    assert host.ejection is None


def test_the_sweep_begins_with_the_first_hosts_and_ends_with_the_channel() -> None:
    """An idle channel has one more timer, and a closed one none."""
    channel = Channel(outlier_detection=OutlierDetection(interval=7.0))
    assert channel.cluster.next_timer() is None
    channel.resolve(now=1.0)
    assert channel.cluster.next_timer() == 8.0
    channel.step(now=8.0)
    assert channel.cluster.next_timer() == 15.0
    channel.close(now=9.0)
    assert channel.cluster.next_timer() is None


def test_a_panic_does_not_end_because_nobody_is_connected() -> None:
    """Otherwise the log would claim that enough hosts are healthy again."""
    channel = Channel.of("a", outlier_detection=ONE)
    attempt_on(channel, "a", UNAVAILABLE, now=0.1)
    channel.step(now=0.2)
    assert channel.cluster.panic == (0,)
    channel.put("a", TRANSIENT_FAILURE, now=0.3)
    channel.step(now=0.4)
    assert [event.priorities for event in channel.ear.heard(PanicChanged)] == [(0,)]
    channel.close(now=0.5)
    assert channel.cluster.panic == ()
