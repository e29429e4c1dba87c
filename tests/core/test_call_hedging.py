"""Hedging by gRFC A6, against a cluster that answers from a list. Each test sets the time."""

import pytest
from tests.core.scripted import CANCELLED, METHOD, REFUSED, UNAVAILABLE, ScriptedCluster, brief, ended, host, plan

from meshlib._core.attempts.retry import LOCAL
from meshlib._core.call import Call, State
from meshlib._core.cluster import CLOSED
from meshlib._core.hedged import machine
from meshlib._core.policy import HedgingPolicy
from meshlib._core.status import OK, Outcome, local

A, B, C, D = host("a"), host("b"), host("c"), host("d")
HEDGE = HedgingPolicy(max_attempts=3, hedging_delay=1.0)
FATAL = Outcome("INVALID_ARGUMENT")


def begun(cluster: ScriptedCluster, policy: HedgingPolicy = HEDGE, **more: object) -> Call:
    """A hedged call whose first copy was sent at 0."""
    call = machine(plan(policy))(cluster, plan(policy), METHOD, **more)  # type: ignore[arg-type]
    assert brief(call.begin(now=0.0)) == ["start 1 a first"]
    return call


def pushed_back(seconds: float) -> Outcome:
    """UNAVAILABLE with a pushback."""
    return Outcome("UNAVAILABLE", pushback=seconds)


def test_copies_follow_each_other_by_the_delay() -> None:
    """Another copy starts after each ``hedging_delay``, up to ``max_attempts``; the first success cancels the
    others."""
    cluster = ScriptedCluster(A, B, C)
    call = begun(cluster, deadline=10.0)
    assert call.next_timer() == 1.0
    assert call.on_timer(now=0.9) == ()
    assert brief(call.on_timer(now=1.0)) == ["start 2 b hedge"]
    assert call.next_timer() == 2.0
    assert brief(call.on_timer(now=2.1)) == ["start 3 c hedge"]
    assert call.next_timer() is None
    assert [attempt.timeout for attempt in call.attempts] == pytest.approx([10.0, 9.0, 7.9])
    assert [attempt.previous for attempt in call.attempts] == [0, 1, 2]
    assert brief(call.on_outcome(2, OK, now=3.0)) == ["cancel 1", "cancel 3", "finish 2 OK"]
    assert call.on_outcome(1, OK, now=3.0) == ()
    assert call.on_outcome(3, CANCELLED, now=3.1) == ()
    assert (cluster.held, sum(cluster.in_flight.values())) == (0, 0)


def test_without_a_delay_all_are_sent_at_once() -> None:
    """With a delay of 0 the timer stays due until the last copy."""
    call = begun(ScriptedCluster(A, B, C), HedgingPolicy(max_attempts=3, hedging_delay=0.0))
    sent = []
    while call.next_timer() == 0.0:
        sent += brief(call.on_timer(now=0.0))
    assert sent == ["start 2 b hedge", "start 3 c hedge"]


def test_a_fatal_answer_ends_all() -> None:
    """A code that is not in ``non_fatal_status_codes`` ends the call, whatever else is in flight."""
    call = begun(ScriptedCluster(A, B, C))
    call.on_timer(now=1.0)
    commands = call.on_outcome(1, FATAL, now=1.5)
    assert brief(commands) == ["cancel 2", "finish 1 INVALID_ARGUMENT"]
    assert call.verdict == "INVALID_ARGUMENT is not in non_fatal_status_codes"
    assert call.on_outcome(2, OK, now=2.0) == ()


def test_a_failure_that_is_not_fatal_sends_the_next_at_once() -> None:
    """The copy after it follows by the delay."""
    call = begun(ScriptedCluster(A, B, C))
    call.on_timer(now=1.0)
    assert brief(call.on_outcome(1, UNAVAILABLE, now=1.2)) == ["start 3 c hedge"]
    assert call.next_timer() is None
    assert call.on_outcome(2, UNAVAILABLE, now=1.3) == ()
    assert brief(call.on_outcome(3, OK, now=1.4)) == ["finish 3 OK"]
    four = begun(ScriptedCluster(A, B, C, D), HedgingPolicy(max_attempts=4, hedging_delay=1.0))
    four.on_timer(now=1.0)
    four.on_outcome(1, UNAVAILABLE, now=1.2)
    assert four.next_timer() == 2.2


def test_all_copies_fail() -> None:
    """The last failure is the call's; the explanation names its host, not the host of the last copy sent."""
    call = begun(ScriptedCluster(A, B, C))
    call.on_timer(now=1.0)
    call.on_timer(now=2.0)
    for n in (1, 3):
        assert call.on_outcome(n, UNAVAILABLE, now=3.0) == ()
    last = Outcome("UNAVAILABLE", "the last")
    assert ended(call.on_outcome(2, last, now=3.0)) is last
    assert call.explain(last) == (
        "UNAVAILABLE after 3 attempts on 3 endpoints (all 3 hedged attempts failed); last: b the last"
    )


def test_the_only_copy_fails_before_the_next() -> None:
    """With nothing in flight the next copy starts at once, like a retry, and may wait for a host."""
    cluster = ScriptedCluster(A, None, B)
    call = begun(cluster)
    assert call.on_outcome(1, UNAVAILABLE, now=0.5) == ()
    assert call.next_timer() == 0.5
    assert call.on_timer(now=0.5) == ()
    assert call.state is State.WAITING
    assert cluster.held == 1
    assert brief(call.on_endpoints(now=0.7)) == ["start 2 b hedge"]
    assert call.next_timer() == 1.7


def test_hedging_pushback_positive() -> None:
    """The next copy follows after the pushback, later ones by the delay."""
    call = begun(ScriptedCluster(A, B, C, D), HedgingPolicy(max_attempts=4, hedging_delay=1.0))
    call.on_timer(now=1.0)
    assert call.on_outcome(1, pushed_back(5.0), now=1.5) == ()
    assert call.next_timer() == 6.5
    assert brief(call.on_timer(now=6.5)) == ["start 3 c hedge"]
    assert call.next_timer() == 7.5


def test_pushback_with_nothing_in_flight() -> None:
    """The call backs off for the pushback and keeps its share of the budget; a closing channel wakes it."""
    cluster = ScriptedCluster(A, B)
    call = begun(cluster, deadline=10.0)
    assert call.on_outcome(1, pushed_back(5.0), now=0.5) == ()
    assert (call.state, call.next_timer(), cluster.held) == (State.BACKOFF, 5.5, 1)
    assert cluster.resting == {call}
    assert brief(call.on_timer(now=5.5)) == ["start 2 b hedge"]
    assert brief(call.on_outcome(2, OK, now=6.0)) == ["finish 2 OK"]
    assert cluster.held == 0


def test_pushback_past_the_deadline() -> None:
    """With nothing in flight the call ends with the last error."""
    call = begun(ScriptedCluster(A), deadline=3.0)
    outcome = pushed_back(5.0)
    assert ended(call.on_outcome(1, outcome, now=0.5)) is outcome


def test_hedging_pushback_negative() -> None:
    """No more copies start; those in flight may still succeed, and their failures start none either."""
    call = begun(ScriptedCluster(A, B, C, D), HedgingPolicy(max_attempts=4, hedging_delay=1.0))
    call.on_timer(now=1.0)
    assert call.on_outcome(1, pushed_back(-1.0), now=1.5) == ()
    assert call.next_timer() is None
    last = Outcome("UNAVAILABLE")
    assert ended(call.on_outcome(2, last, now=2.0)) is last
    assert call.verdict == "server pushback forbids further hedges"


@pytest.mark.parametrize("why", ["message", "headers", "buffer"])
def test_a_commit_cancels_the_others(why: str) -> None:
    """A commit also stops further copies. Only the outcome of the committed copy counts."""
    cluster = ScriptedCluster(A, B, C)
    call = begun(cluster, streaming=True)
    call.on_timer(now=1.0)
    assert brief(call.on_commit(2, why, now=1.1)) == ["cancel 1"]
    assert call.next_timer() is None
    assert call.on_outcome(1, CANCELLED, now=1.2) == ()
    assert call.on_commit(1, "message", now=1.2) == ()
    assert call.committed == 2
    assert call.state is State.FLYING
    assert ended(call.on_outcome(2, UNAVAILABLE, now=2.0)) is UNAVAILABLE
    assert cluster.held == 0


def test_a_refused_copy_is_sent_again_beside_the_others() -> None:
    """The refusal uses up none of the remaining copies and does not move their time."""
    cluster = ScriptedCluster(A, B, C, D)
    call = begun(cluster)
    call.on_timer(now=1.0)
    assert brief(call.on_outcome(2, REFUSED, now=1.5)) == ["start 3 c refused"]
    assert call.next_timer() == 2.0
    assert cluster.held == 1
    assert brief(call.on_timer(now=2.0)) == ["start 4 d hedge"]
    assert [attempt.previous for attempt in call.attempts] == [0, 1, 1, 2]
    assert call.next_timer() is None
    assert cluster.held == 2
    assert brief(call.on_outcome(3, OK, now=3.0)) == ["cancel 1", "cancel 4", "finish 3 OK"]
    assert cluster.held == 0


@pytest.mark.parametrize("instead", [None, local("UNAVAILABLE", "no endpoints")])
def test_a_refused_copy_with_nowhere_to_go(instead: Outcome | None) -> None:
    """The refusal is an ordinary failure: the call neither waits nor ends while a copy is in flight."""
    cluster = ScriptedCluster(A, B, instead)
    call = begun(cluster)
    call.on_timer(now=1.0)
    assert call.on_outcome(2, REFUSED, now=1.5) == ()
    assert call.state is State.FLYING
    assert cluster.waiting == set()
    assert cluster.held == 0
    assert brief(call.on_outcome(1, OK, now=2.0)) == ["finish 1 OK"]


def test_each_copy_holds_a_place_until_it_ends() -> None:
    """Each copy beyond the first holds a share of the budget, released when it ends or is cancelled."""
    cluster = ScriptedCluster(A, B, C)
    call = begun(cluster)
    held = [cluster.held]
    call.on_timer(now=1.0)
    held.append(cluster.held)
    call.on_timer(now=2.0)
    held.append(cluster.held)
    call.on_outcome(1, UNAVAILABLE, now=3.0)
    held.append(cluster.held)
    call.on_outcome(3, UNAVAILABLE, now=3.0)
    held.append(cluster.held)
    call.on_outcome(2, UNAVAILABLE, now=3.0)
    held.append(cluster.held)
    assert held == [0, 1, 2, 2, 1, 0]


def test_hedging_throttled() -> None:
    """Without budget no further copy is sent, now or later, and the call ends with the copies it has."""
    cluster = ScriptedCluster(A, B, C, places=1)
    call = begun(cluster)
    call.on_timer(now=1.0)
    assert call.on_timer(now=2.0) == ()
    assert (cluster.refusals, call.next_timer()) == (1, None)
    assert call.on_outcome(1, UNAVAILABLE, now=3.0) == ()
    assert ended(call.on_outcome(2, UNAVAILABLE, now=3.0)) is UNAVAILABLE
    assert call.verdict == "retry budget exhausted"


@pytest.mark.parametrize("instead", [None, local("UNAVAILABLE", "no endpoints"), CLOSED])
def test_no_host_for_a_copy(instead: Outcome | None) -> None:
    """No further copies start; the call does not wait for another host."""
    cluster = ScriptedCluster(A, instead)
    call = begun(cluster)
    assert call.on_timer(now=1.0) == ()
    assert (cluster.held, cluster.waiting, call.next_timer()) == (0, set(), None)
    assert brief(call.on_outcome(1, OK, now=2.0)) == ["finish 1 OK"]


def test_no_copy_after_the_deadline() -> None:
    """A failure at the deadline starts no copy, even with a non-fatal code."""
    policy = HedgingPolicy(max_attempts=3, hedging_delay=1.0, non_fatal_status_codes=frozenset({"DEADLINE_EXCEEDED"}))
    call = begun(ScriptedCluster(A, B, C), policy, deadline=1.5)
    call.on_timer(now=1.0)
    late = Outcome("DEADLINE_EXCEEDED")
    assert call.on_outcome(1, late, now=1.5) == ()
    assert ended(call.on_outcome(2, late, now=1.5)) is late


def test_hedging_cancelled() -> None:
    """Every copy is cancelled and every share of the budget released."""
    cluster = ScriptedCluster(A, B, C)
    call = begun(cluster)
    call.on_timer(now=1.0)
    assert brief(call.on_cancel(CANCELLED, now=1.5)) == ["cancel 1", "cancel 2", "finish 0 CANCELLED"]
    assert cluster.held == 0


def test_what_fails_in_this_process_sends_no_further_copy() -> None:
    """A credentials plug-in that raised would raise again."""
    call = begun(ScriptedCluster(A, B))
    failure = Outcome("UNAVAILABLE", "a plug-in raised", sent=False, local=True)
    assert ended(call.on_outcome(1, failure, now=0.01)) is failure
    assert call.verdict == LOCAL
