"""The machine of one service: its hosts, picks and waiting calls. Each test sets the time."""

from collections import Counter

import pytest
from tests.core.scripted import REFUSED, UNAVAILABLE, Channel, brief, ended

from meshlib._core.balancing.priorities import Priorities
from meshlib._core.cluster import CLOSED, ClusterMachine
from meshlib._core.commands import Close, Open, Rebuild, RequestReresolution, StateChanged, Wake
from meshlib._core.connectivity import CONNECTING, IDLE, READY, SHUTDOWN, TRANSIENT_FAILURE
from meshlib._core.connectivity_poll import GROWTH, POLL_FIRST, POLL_LAST, QUIET, SWEEP
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.events import EndpointsChanged, HostStateChanged, HostUnreachable, ResolutionFailed
from meshlib._core.health.unreachable import PATIENCE
from meshlib._core.host import HostEntry
from meshlib._core.policy import OutlierDetection, RetryBudget, RetryPolicy
from meshlib._core.status import OK, Outcome


def tiers(**priorities: int) -> list[Endpoint]:
    """Endpoints by name and priority."""
    return [Endpoint(address=name, priority=priority) for name, priority in priorities.items()]


def shares(channel: Channel, calls: int = 60) -> Counter[str]:
    """The number of picks of each host."""
    return Counter(channel.pick() for _ in range(calls))


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


# --- priorities (RFC 2782) -----------------------------------------------------------


def test_the_first_priority_with_a_ready_host() -> None:
    """The better priority gets every call while it has a ready host; a dead one fails over and back."""
    channel = Channel.of(*tiers(a=0, b=0, c=1))
    assert set(shares(channel)) == {"a", "b"}
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    assert set(shares(channel)) == {"b"}
    channel.put("b", TRANSIENT_FAILURE, now=1.0)
    assert set(shares(channel)) == {"c"}
    channel.put("b", CONNECTING, now=2.0)
    assert set(shares(channel)) == {"c"}
    channel.put("b", READY, now=3.0)
    assert set(shares(channel)) == {"b"}


def test_retries_stay_in_the_priority_while_it_has_a_host() -> None:
    """A second attempt prefers an already tried host to a worse priority."""
    channel = Channel.of(*tiers(a=0, c=1))
    call = channel.call()
    call.begin(now=1.0)
    assert channel.pick(call, now=1.0) == "a"


def test_a_better_priority_is_waited_for_at_the_start() -> None:
    """A better priority that has not failed is about to connect."""
    channel = Channel()
    channel.resolve(*tiers(a=0, c=1), now=0.0)
    channel.put("c", READY, now=1.0)
    call = channel.call()
    assert call.begin(now=1.0) == ()
    channel.put("a", TRANSIENT_FAILURE, now=2.0)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=2.0)) == ["start 1 c first"]


@pytest.mark.parametrize("factor", [None, 1.4])
def test_an_ejected_host_beside_a_priority_that_is_gone(factor: float | None) -> None:
    """An ejected host that is the only one is used: a priority without a connection does not prevent panic."""
    channel = Channel.of(
        Endpoint(address="a", priority=0),
        Endpoint(address="b", priority=1),
        balancer=Priorities(overprovisioning_factor=factor),
        outlier_detection=OutlierDetection(consecutive_gateway_failure=1),
    )
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    call = channel.call()
    assert brief(call.begin(now=1.0)) == ["start 1 b first"]
    call.on_outcome(1, Outcome("UNAVAILABLE"), now=2.0)
    channel.step(now=2.0)
    assert channel.host("b").ejection is not None
    assert channel.pick(now=3.0) == "b"
    assert channel.cluster.panic == (1,)


def test_a_better_priority_is_not_waited_for_later() -> None:
    """Once calls have been served, a new host of a better priority does not make calls wait."""
    channel = Channel.of(*tiers(c=1))
    channel.put("c", IDLE, now=1.0)
    channel.resolve(*tiers(a=0, c=1), now=2.0)
    channel.put("c", READY, now=3.0)
    assert set(shares(channel)) == {"c"}
    channel.put("a", READY, now=4.0)
    assert set(shares(channel)) == {"a"}


def test_a_better_priority_that_is_taken_back() -> None:
    """Calls no longer wait for it."""
    channel = Channel()
    channel.resolve(*tiers(a=0, c=1), now=0.0)
    channel.put("c", READY, now=1.0)
    call = channel.call()
    call.begin(now=1.0)
    channel.resolve(*tiers(c=1), now=2.0)
    assert channel.woken == [call]


# --- waiting, failing fast, wait_for_ready -------------------------------------------


def test_fail_fast_waits_while_the_name_is_resolved() -> None:
    """The call waits for the resolver, then fails with its reason if there is no host."""
    channel = Channel()
    call = channel.call()
    assert call.begin(now=0.0) == ()
    channel.fail("NXDOMAIN", now=1.0)
    assert channel.woken == [call]
    outcome = ended(call.on_endpoints(now=1.0))
    assert (outcome.code, outcome.local) == ("UNAVAILABLE", True)
    assert outcome.details == "'svc-a' has no endpoints: NXDOMAIN"


def test_fail_fast_waits_while_anything_connects() -> None:
    """One host that may still become ready keeps the call waiting, however many have failed."""
    channel = Channel()
    channel.resolve("a", "b", now=0.0)
    channel.put("a", TRANSIENT_FAILURE, now=0.5)
    call = channel.call()
    assert call.begin(now=1.0) == ()
    channel.put("b", READY, now=2.0)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=2.0)) == ["start 1 b first"]


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


def test_the_true_reason_of_failing_hosts_is_of_the_best_priority() -> None:
    """The reported reason is that of the best priority."""
    channel = Channel()
    channel.resolve(*tiers(a=1, b=0, c=2), now=0.0)
    for name in "abc":
        channel.put(name, TRANSIENT_FAILURE, now=1.0)
    assert shares(channel) == {"b": 60}


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


def test_wait_for_ready_waits() -> None:
    """Neither a failed resolution nor failing hosts end the call or wake it repeatedly."""
    channel = Channel()
    call = channel.call(wait_for_ready=True)
    assert call.begin(now=0.0) == ()
    channel.fail("NXDOMAIN", now=1.0)
    channel.resolve("a", now=2.0)
    channel.put("a", TRANSIENT_FAILURE, now=3.0)
    for _ in range(3):
        channel.step(now=4.0)
    assert channel.woken == []
    channel.put("a", READY, now=5.0)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=5.0)) == ["start 1 a first"]


def test_a_call_waits_for_the_picker_to_be_built() -> None:
    """Both kinds of call wait for a picker if a ready host has none."""
    channel = Channel(defer=True)
    channel.resolve("a", now=0.0)
    channel.perform(now=0.0)
    channel.put("a", READY, now=1.0)
    calls = [channel.call(), channel.call(wait_for_ready=True)]
    assert [call.begin(now=1.0) for call in calls] == [(), ()]
    channel.perform(now=2.0)
    assert channel.woken == calls


def test_a_call_that_leaves_is_not_woken() -> None:
    """A call cancelled while it waits is removed from the queue."""
    channel = Channel()
    call = channel.call()
    call.begin(now=0.0)
    call.on_cancel(CLOSED, now=0.5)
    channel.resolve("a", now=1.0)
    channel.put("a", READY, now=2.0)
    assert channel.woken == []


@pytest.mark.parametrize(
    ("named", "state", "failure", "words"),
    [
        (None, None, None, "'svc-a' is still being resolved"),
        ([], None, None, "'svc-a' has no endpoints: the resolver returned no endpoints"),
        (["a"], None, None, "no endpoint of 'svc-a' is ready: 1 CONNECTING"),
        (["a"], IDLE, "SERVFAIL", "no endpoint of 'svc-a' is ready: 1 IDLE; the last resolution failed: SERVFAIL"),
        (["a", "b", "c", "d", "e"], None, None, "no endpoint of 'svc-a' is ready: 5 CONNECTING"),
    ],
)
def test_situation(named: list[str] | None, state: int | None, failure: str | None, words: str) -> None:
    """The reason that there is no host, as used in error details: without addresses."""
    channel = Channel()
    if named is not None:
        channel.resolve(*named, now=0.0)
    if state is not None:
        channel.put("a", state, now=0.5)
    if failure is not None:
        channel.fail(failure, now=1.0)
    assert channel.cluster.situation() == words


# --- connections ---------------------------------------------------------------------


def test_the_pick_asks_the_host_it_chose() -> None:
    """A connection lost unseen gets no call; the control plane is notified, and one re-resolution follows."""
    channel = Channel.of("a", "b")
    channel.links["a"].is_now = IDLE
    before = channel.asked_for_attention
    for _ in range(10):
        (start,) = channel.call().begin(now=0.5)
        assert brief([start]) == ["start 1 b first"]
    assert channel.asked_for_attention == before + 1
    channel.step(now=1.0)
    assert channel.lookups == 1
    assert channel.cluster.ready == 1


def test_a_refused_call_takes_its_host_out() -> None:
    """The first refused call takes a dead host out of the picker, long before the next sweep."""
    channel = Channel.of("a", "b")
    call = channel.call()
    (start,) = call.begin(now=1.0)
    dead = start.record.host.endpoint.address  # type: ignore[union-attr]
    channel.links[dead].is_now = TRANSIENT_FAILURE
    (again,) = call.on_outcome(1, REFUSED, now=1.0)
    assert brief([again]) == [f"start 2 {'b' if dead == 'a' else 'a'} refused"]
    assert channel.cluster.ready == 1


def test_becoming_failing_is_one_lookup() -> None:
    """A lost connection, or a failed first one, causes one re-resolution; a host that stays failing causes no more."""
    channel = Channel.of("a", "b")
    for state in (IDLE, CONNECTING, TRANSIENT_FAILURE, CONNECTING, TRANSIENT_FAILURE):
        channel.put("a", state, now=1.0)
    assert channel.lookups == 1
    channel.put("a", READY, now=2.0)
    channel.put("a", TRANSIENT_FAILURE, now=3.0)
    assert channel.lookups == 2
    channel.resolve("a", "b", "c", now=4.0)
    channel.put("c", TRANSIENT_FAILURE, now=5.0)
    assert channel.lookups == 3


def test_hosts_that_fail_together_are_one_lookup() -> None:
    """A sweep that finds several failed hosts requests one re-resolution."""
    channel = Channel.of("a", "b", "c")
    for name in "abc":
        channel.links[name].is_now = TRANSIENT_FAILURE
    channel.step(now=10.0)
    assert channel.lookups == 1


def test_the_sweep_looks_at_all_hosts() -> None:
    """The sweep runs ten times a second, and takes the lock more than once for hundreds of hosts."""
    channel = Channel.of(*(f"h{n}" for n in range(200)))
    due = channel.cluster.next_timer()
    assert due is not None
    before = [link.asked for link in channel.every_link]
    channel.step(now=due)
    assert [link.asked for link in channel.every_link] == [count + 1 for count in before]
    assert channel.cluster.next_timer() == due + SWEEP


def test_it_looks_less_often_while_nobody_calls_and_nothing_changes() -> None:
    """A call that ends or is in flight, or a lost host, restores ten sweeps a second."""
    channel = Channel.of("a", "b")

    def gap() -> float:
        due = channel.cluster.next_timer()
        assert due is not None
        channel.step(now=due)
        after = channel.cluster.next_timer()
        assert after is not None
        return after - due

    assert [gap() for _ in range(6)] == pytest.approx([SWEEP, 0.2, 0.4, 0.8, QUIET, QUIET])
    channel.pick()
    assert [gap(), gap()] == pytest.approx([SWEEP, 0.2])
    call = channel.call()
    call.begin(now=50.0)
    assert [gap(), gap()] == pytest.approx([SWEEP, SWEEP])
    call.on_outcome(1, OK, now=51.0)
    assert [gap(), gap()] == pytest.approx([SWEEP, 0.2])
    channel.links["a"].is_now = CONNECTING
    assert [gap(), gap()] == pytest.approx([SWEEP, 0.2])


def test_how_often_it_looks_while_a_call_waits() -> None:
    """Sweeps slow from 0.3 ms to 20 ms, then to ten a second. A second call does not restart them."""
    channel = Channel.of("a")
    channel.step(now=99.99)
    channel.put("a", CONNECTING, now=100.0)
    call = channel.call()
    call.begin(now=100.0)
    due = channel.cluster.next_timer()
    assert due == 100.0 + POLL_FIRST
    gaps = []
    for n in range(12):
        channel.step(now=due)
        if n == 5:
            channel.call().begin(now=due)
        next_due = channel.cluster.next_timer()
        assert next_due is not None
        gaps.append(next_due - due)
        due = next_due
    assert gaps == pytest.approx([min(POLL_FIRST * GROWTH ** (n + 1), POLL_LAST) for n in range(12)])
    channel.put("a", READY, now=due)
    channel.step(now=due)
    assert channel.cluster.next_timer() == due + SWEEP


def test_attention_before_the_timer_does_not_sweep() -> None:
    """Attention performs pending commands and does not sweep."""
    channel = Channel.of("a")
    channel.step(now=1.0)
    before = channel.links["a"].asked
    channel.step(now=1.05)
    assert channel.links["a"].asked == before


def test_nothing_to_look_at() -> None:
    """Without a host no timer is due."""
    channel = Channel.of("a")
    assert channel.cluster.next_timer() is not None
    channel.resolve(now=1.0)
    assert channel.cluster.next_timer() is None
    channel.call(wait_for_ready=True).begin(now=1.0)
    channel.step(now=1.0)
    assert channel.cluster.next_timer() is None


def test_the_state_of_the_channel() -> None:
    """IDLE, CONNECTING, then gRPC's round robin rule over the hosts; changes are notified."""
    channel = Channel()
    assert channel.cluster.connectivity == IDLE
    channel.step(now=0.0)
    channel.resolve("a", "b", now=1.0)
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    channel.put("b", READY, now=2.0)
    channel.put("b", IDLE, now=3.0)
    channel.put("b", TRANSIENT_FAILURE, now=4.0)
    channel.resolve(now=5.0)
    channel.close(now=6.0)
    assert channel.states == [CONNECTING, READY, CONNECTING, TRANSIENT_FAILURE, SHUTDOWN]


# --- retries -------------------------------------------------------------------------


def test_another_host_first() -> None:
    """An attempt goes to an untried host if there is one; otherwise to any ready host."""
    channel = Channel.of("a", "b", "c")
    for _ in range(20):
        call = channel.call()
        call.tried = (channel.host("a"), channel.host("b"))
        assert channel.pick(call) == "c"
        call.tried += (channel.host("c"),)
        assert channel.pick(call) in {"a", "b", "c"}


@pytest.mark.parametrize(
    ("percent", "least", "active", "allowed"),
    [(20.0, 3, 1, 3), (20.0, 3, 15, 3), (20.0, 3, 20, 4), (20.0, 3, 100, 20), (25.0, 3, 100, 25), (20.0, 5, 1, 5)],
)
def test_the_budget_is_of_the_calls_under_way(percent: float, least: int, active: int, allowed: int) -> None:
    """The budget counts calls in flight, waiting calls, and the asking call."""
    budget = RetryBudget(budget_percent=percent, min_retry_concurrency=least)
    channel = Channel.of("a", budget=budget)
    waiting = active // 3
    for _ in range(active - 1 - waiting):
        channel.call().begin(now=0.0)
    channel.put("a", CONNECTING, now=0.5)
    for _ in range(waiting):
        channel.call().begin(now=1.0)
    granted = [channel.cluster.retries.acquire(channel.call()) for _ in range(allowed + 3)]
    assert granted == [True] * allowed + [False] * 3


def test_twenty_parallel_failures() -> None:
    """If 20 calls fail together on connected hosts, 3 are retried and 17 exceed the budget, as in Envoy."""
    channel = Channel.of("a", "b", budget=RetryBudget(budget_percent=0.0))
    calls = [channel.call(RetryPolicy(max_attempts=2)) for _ in range(20)]
    for call in calls:
        call.begin(now=0.0)
    for call in calls:
        assert call.on_outcome(1, UNAVAILABLE, now=1.0) == ()
    commands = [command for call in calls for command in call.on_timer(now=2.0)]
    words = Counter(word.split()[0] for word in brief(commands))
    assert words == {"start": 3, "finish": 17}
    assert channel.cluster.retries.refused == 17


@pytest.mark.parametrize("how", ["idle now", "ready again", "removed"])
def test_calls_of_a_lost_host_are_retried_beyond_the_budget(how: str) -> None:
    """This holds if its connection is lost, came back within the back-off, or the resolver dropped the host."""
    channel = Channel.of("a", "b", budget=RetryBudget(budget_percent=0.0, min_retry_concurrency=0))
    call = channel.call(RetryPolicy())
    (start,) = call.begin(now=0.0)
    lost = start.record.host.endpoint.address  # type: ignore[union-attr]
    other = "b" if lost == "a" else "a"
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    if how == "removed":
        channel.resolve(other, now=1.001)
    else:
        channel.put(lost, IDLE, now=1.001)
    if how == "ready again":
        channel.put(lost, READY, now=1.002)
    assert brief(call.on_timer(now=2.0)) == [f"start 2 {other} retry"]


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


def test_a_host_that_stays_unreachable_is_asked_why_and_told() -> None:
    """The snapshot has the reason; the event is for the log, if other hosts are connected."""
    channel = Channel.of("a", "b")
    channel.put("b", TRANSIENT_FAILURE, now=10.0)
    assert channel.diagnosed == []
    assert channel.cluster.next_timer() is not None
    channel.step(now=10.0 + PATIENCE)
    assert channel.diagnosed == ["b"]
    channel.cluster.on_reason(channel.host("b"), "refused", now=11.5)
    (event,) = channel.ear.heard(HostUnreachable)
    assert (event.address, event.reason, event.ready, event.hosts) == ("b", "refused", 1, 2)
    a, b = channel.cluster.snapshot(now=12.0)
    assert (a.last_error, b.last_error, b.state_since) == ("", "refused", 2.0)
    channel.put("b", READY, now=13.0)
    channel.step(now=20.0)
    assert channel.cluster.snapshot(now=20.0)[1].last_error == ""
    assert channel.diagnosed == ["b"]


def test_hosts_that_all_fail_are_no_news_for_the_log() -> None:
    """If all hosts fail, the errors of calls have the reason."""
    channel = Channel.of("a")
    channel.put("a", TRANSIENT_FAILURE, now=10.0)
    channel.step(now=10.0 + PATIENCE)
    channel.cluster.on_reason(channel.host("a"), "refused", now=11.5)
    assert channel.cluster.snapshot(now=12.0)[0].last_error == "refused"
    assert channel.ear.heard(HostUnreachable) == []
