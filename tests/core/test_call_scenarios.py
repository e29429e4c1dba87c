"""Scenarios of other implementations that no other test of the machine shows; ``scenarios.toml`` lists them."""

import pytest
from tests.core.scripted import CANCELLED, METHOD, REFUSED, UNAVAILABLE, ScriptedCluster, brief, ended, host, plan

from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.call import Call
from meshlib._core.hedged import HedgedCall
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.status import OK, Outcome

A, B, C = host("a"), host("b"), host("c")
RETRY = RetryPolicy(max_attempts=5, initial_backoff=0.1, max_backoff=1.0)


def retried(cluster: ScriptedCluster, **more: object) -> Call:
    """A call whose second attempt, a retry, has started at 2."""
    call = Call(cluster, plan(RETRY), METHOD, **more)  # type: ignore[arg-type]
    call.begin(now=0.0)
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    assert brief(call.on_timer(now=2.0)) == ["start 2 b retry"]
    return call


def hedged(cluster: ScriptedCluster, **policy: object) -> HedgedCall:
    """A hedged call whose original started at 0, its copies a second apart."""
    call = HedgedCall(cluster, plan(HedgingPolicy(hedging_delay=1.0, **policy)), METHOD)  # type: ignore[arg-type]
    assert brief(call.begin(now=0.0)) == ["start 1 a first"]
    return call


# --- the end of a call while a retry is in flight ------------------------------------


def test_cancel_while_a_retry_is_in_flight() -> None:
    """C-core: retry_cancellation. Only that attempt is cancelled, its share of the budget is released at once, and its
    outcome is not retried, whatever it is."""
    cluster = ScriptedCluster(A, B, C)
    call = retried(cluster)
    assert cluster.held == 1
    assert brief(call.on_cancel(CANCELLED, now=2.5)) == ["cancel 2", "finish 0 CANCELLED"]
    assert cluster.held == 0
    assert call.on_outcome(2, UNAVAILABLE, now=2.6) == ()
    assert call.next_timer() is None
    assert not +cluster.in_flight


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "CANCELLED", "UNAVAILABLE"])
def test_the_deadline_while_a_retry_is_in_flight(code: str) -> None:
    """C-core: retry_cancellation. The retry has the remaining deadline; after the deadline nothing follows it."""
    cluster = ScriptedCluster(A, B, C)
    call = retried(cluster, deadline=5.0)
    assert call.attempts[1].timeout == 3.0
    late = Outcome(code, "as it was")
    assert ended(call.on_outcome(2, late, now=5.0)) is late
    assert (cluster.held, call.next_timer()) == (0, None)


# --- hedging -------------------------------------------------------------------------


def test_a_copy_refused_twice_by_one_host_has_failed() -> None:
    """Java: hedging_transparentRetryNotAllowed. The second refusal is an ordinary failure: the next allowed copy
    follows at once; after the last copy the refusal is the call's."""
    call = hedged(ScriptedCluster(A, A, B, B), max_attempts=2)
    assert brief(call.on_outcome(1, REFUSED, now=0.1)) == ["start 2 a refused"]
    assert call.on_outcome(2, REFUSED, now=0.2) == ()
    assert call.next_timer() == 0.2
    assert brief(call.on_timer(now=0.2)) == ["start 3 b hedge"]
    assert brief(call.on_outcome(3, REFUSED, now=0.3)) == ["start 4 b refused"]
    assert ended(call.on_outcome(4, REFUSED, now=0.4)) is REFUSED
    assert [attempt.previous for attempt in call.attempts] == [0, 0, 1, 1]


def test_a_committed_copy_that_is_refused_is_not_sent_again() -> None:
    """Java: hedging_transparentRetryNotAllowed. Its requests are gone."""
    call = hedged(ScriptedCluster(A, B), max_attempts=2)
    call.on_commit(1, "buffer", now=0.1)
    assert ended(call.on_outcome(1, REFUSED, now=0.2)) is REFUSED


def test_hedging_throttled_by_its_own_copies() -> None:
    """Java: hedging_throttledByHedgingStreams. Copies that fail use up the tokens of further copies."""
    cluster = ScriptedCluster(A, B, C, throttling=RetryThrottling(max_tokens=4, token_ratio=0.5))
    assert cluster.throttle is not None
    call = hedged(cluster, max_attempts=5)
    assert brief(call.on_timer(now=1.0)) == ["start 2 b hedge"]
    assert brief(call.on_outcome(1, UNAVAILABLE, now=1.1)) == ["start 3 c hedge"]
    assert cluster.throttle.tokens == 3
    assert call.on_outcome(2, UNAVAILABLE, now=1.2) == ()
    assert (cluster.throttle.tokens, call.next_timer(), cluster.refusals) == (2, None, 1)
    assert brief(call.on_outcome(3, OK, now=9.0)) == ["finish 3 OK"]


# --- retry throttling ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "pushback", "tokens"),
    [
        ("UNAVAILABLE", None, 2),
        ("NOT_FOUND", None, 3),
        ("UNAVAILABLE", 0.1, 2),
        ("NOT_FOUND", 0.1, 3),
        ("UNAVAILABLE", -1.0, 2),
        ("NOT_FOUND", -1.0, 2),
    ],
)
def test_a_throttled_call_is_not_retried(code: str, pushback: float | None, tokens: float) -> None:
    """Java: throttledStream_*. A throttled call ignores pushback delays. A failure that might have been retried takes a
    token, and so does a pushback that forbids a retry; no other does."""
    cluster = ScriptedCluster(A, B, throttling=RetryThrottling(max_tokens=6, token_ratio=0.5))
    throttle = cluster.throttle
    assert throttle is not None
    for _ in range(3):
        throttle.failed()
    assert not throttle.allows
    call = Call(cluster, plan(RETRY), METHOD)  # type: ignore[arg-type]
    call.begin(now=0.0)
    outcome = Outcome(code, pushback=pushback)
    assert ended(call.on_outcome(1, outcome, now=1.0)) is outcome
    assert throttle.tokens == tokens
