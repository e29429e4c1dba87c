"""Texts of failed calls: for the error, and for the log."""

import pytest
from tests.core.scripted import METHOD, UNAVAILABLE, Draws, ScriptedCluster, brief, ended, host, plan

from meshlib._core.call import Call
from meshlib._core.explanation import explanation, story
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.status import OK, Outcome, local

AGAIN = Outcome("UNAVAILABLE", "gone, too")
RETRY = RetryPolicy(max_attempts=2, initial_backoff=0.01, max_backoff=0.01)


def failed(policy: RetryPolicy | None) -> Call:
    """A call to two hosts, ended by UNAVAILABLE."""
    call = Call(ScriptedCluster(host("a"), host("b")), plan(policy), METHOD)
    call.begin(now=0.0)
    commands = call.on_outcome(1, UNAVAILABLE, now=1.0)
    if (timer := call.next_timer()) is not None:
        assert brief(call.on_timer(now=timer)) == ["start 2 b retry"]
        commands = call.on_outcome(2, AGAIN, now=2.0)
    assert ended(commands).code == "UNAVAILABLE"
    return call


def test_the_error_of_a_call_without_an_attempt() -> None:
    """It has the code, the details, and what is known about the hosts."""
    assert explanation((), OK, "", "") == "OK: "
    outcome = local("UNAVAILABLE", "no endpoint is ready", "a ejected")
    assert explanation((), outcome, outcome.details, "") == "UNAVAILABLE: no endpoint is ready (a ejected)"


@pytest.mark.parametrize(
    ("policy", "why", "text"),
    [
        (
            None,
            "retries are disabled",
            "UNAVAILABLE after 1 attempt on 1 endpoint (retries are disabled); last: a gone",
        ),
        (RETRY, "", "UNAVAILABLE after 2 attempts on 2 endpoints; last: b gone, too"),
    ],
)
def test_the_error_of_a_call_with_attempts(policy: RetryPolicy | None, why: str, text: str) -> None:
    """It counts attempts and endpoints, and names the last endpoint."""
    outcome = AGAIN if policy else UNAVAILABLE
    assert explanation(failed(policy).attempts, outcome, outcome.details, why) == text


def test_the_log_text_lists_the_attempts() -> None:
    """Oldest first, each with its endpoint, its kind and its code; the reason comes last."""
    attempts = failed(RETRY).attempts
    assert story(attempts, "UNAVAILABLE", "") == (
        "UNAVAILABLE after 2 attempts (a first: UNAVAILABLE; b retry: UNAVAILABLE)"
    )
    assert story(attempts[:1], "OK", "over") == "OK after 1 attempt (a first: UNAVAILABLE; over)"


def test_the_log_text_of_an_attempt_in_flight() -> None:
    """Its code is not known yet."""
    call = Call(ScriptedCluster(host("a")), plan(), METHOD)
    call.begin(now=0.0)
    assert story(call.attempts, "CANCELLED", "") == "CANCELLED after 1 attempt (a first: ?)"


def test_a_call_has_used_up_its_attempts() -> None:
    """Once it ended with as many attempts as its policy allows, if that is more than one."""
    assert failed(RETRY).used_up
    assert not failed(None).used_up
    assert not failed(RetryPolicy(max_attempts=2, retryable_status_codes={"ABORTED"})).used_up
    hedged = Call(ScriptedCluster(host("a")), plan(HedgingPolicy()), METHOD)
    assert not hedged.used_up


def test_a_retry_beyond_the_budget_does_not_wait_for_a_loss_past_the_deadline() -> None:
    """grpc reports a lost connection, the budget is exhausted, and the deadline leaves no time to confirm the loss."""
    cut = Outcome("UNAVAILABLE", "Socket closed", answered=False)
    cluster = ScriptedCluster(host("a"), places=0)
    cluster.rng = Draws(1.0)
    call = Call(cluster, plan(RetryPolicy(initial_backoff=0.01, max_backoff=0.01)), METHOD, deadline=1.012)
    call.begin(now=0.5)
    assert call.on_outcome(1, cut, now=1.0) == ()
    timer = call.next_timer()
    assert timer == pytest.approx(1.01)
    assert ended(call.on_timer(now=1.01)) == cut
    assert call.verdict == "retry budget exhausted"
