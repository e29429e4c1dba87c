"""The properties of C-core's retry_state_test, under its names, for any policy and any failures."""

from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st
from tests.core.scripted import METHOD, ScriptedCluster, brief, ended, host, plan

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.retry import Retries
from meshlib._core.call import Call
from meshlib._core.commands import Finish
from meshlib._core.policy import RetryPolicy
from meshlib._core.status import Outcome

A = host("a")
CODES = ["UNAVAILABLE", "ABORTED", "NOT_FOUND", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL"]

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(2, 8),
    initial_backoff=st.floats(0.001, 10.0),
    max_backoff=st.floats(0.001, 10.0),
    backoff_multiplier=st.floats(1.0, 10.0),
    retryable_status_codes=st.frozensets(st.sampled_from(CODES[:3]), min_size=1),
    unsent_only=st.booleans(),
)
pushbacks = st.one_of(st.none(), st.floats(-5.0, 100.0))
failures = st.builds(Outcome, st.sampled_from(CODES), pushback=pushbacks, sent=st.booleans())


def begun(policy: RetryPolicy | None) -> Call:
    """A call whose first attempt is in flight."""
    call = Call(ScriptedCluster(A), plan(policy), METHOD, streaming=True)  # type: ignore[arg-type]
    assert brief(call.begin(now=0.0)) == ["start 1 a first"]
    return call


def decisions(policy: RetryPolicy, outcomes: list[Outcome], seed: int) -> list[float | str]:
    """The decisions after consecutive failures, up to the first that ends the call."""
    retries = Retries(policy, Random(seed), lambda _: None)
    made: list[float | str] = []
    for count, outcome in enumerate(outcomes, start=1):
        attempt = AttemptRecord(count, A, None, 0.0)
        made.append(retries.decide(attempt, outcome, count=count, elapsed=0.0, now=0.0))
        if isinstance(made[-1], str):
            break
    return made


@given(failures)
def test_no_policy_never_retries(outcome: Outcome) -> None:
    """NoPolicyNeverRetries."""
    assert ended(begun(None).on_outcome(1, outcome, now=1.0)) is outcome


@given(policies, pushbacks)
def test_successful_requests_never_retry(policy: RetryPolicy, pushback: float | None) -> None:
    """SuccessfulRequestsNeverRetry: a pushback with an OK requests no attempt."""
    outcome = Outcome("OK", pushback=pushback)
    assert ended(begun(policy).on_outcome(1, outcome, now=1.0)) is outcome


@given(policies, failures, st.sampled_from(["message", "headers", "buffer"]))
def test_committed_requests_never_retry(policy: RetryPolicy, outcome: Outcome, why: str) -> None:
    """CommittedRequestsNeverRetry."""
    call = begun(policy)
    call.on_commit(1, why, now=0.5)
    assert ended(call.on_outcome(1, outcome, now=1.0)) is outcome


@given(policies, failures)
def test_non_retryable_requests_never_retry(policy: RetryPolicy, outcome: Outcome) -> None:
    """NonRetryableRequestsNeverRetry: a status outside the policy's, even with a pushback."""
    assume(outcome.code not in policy.retryable_status_codes)
    assert ended(begun(policy).on_outcome(1, outcome, now=1.0)) is outcome


@given(policies, st.lists(failures, min_size=1, max_size=10))
def test_never_exceed_max_attempts(policy: RetryPolicy, outcomes: list[Outcome]) -> None:
    """NeverExceedMaxAttempts: a call that keeps failing has ended by then, and starts no attempt."""
    call = begun(policy)
    now, finished = 0.0, False
    for outcome in outcomes:
        commands = call.on_outcome(len(call.attempts), outcome, now=now)
        finished = any(isinstance(command, Finish) for command in commands)
        timer = call.next_timer()
        if finished or timer is None:
            break
        now = max(now, timer)
        call.on_timer(now=now)
    assert len(call.attempts) <= policy.max_attempts
    assert finished or len(outcomes) < policy.max_attempts


@given(policies, failures, st.floats(-1000.0, -0.001))
def test_never_retry_negative_pushback(policy: RetryPolicy, failure: Outcome, pushback: float) -> None:
    """NeverRetryNegativePushback."""
    outcome = Outcome(failure.code, pushback=pushback, sent=failure.sent)
    call = begun(policy)
    assert ended(call.on_outcome(1, outcome, now=1.0)) is outcome
    assert call.verdict == "server pushback forbids a retry"


@given(policies, st.lists(failures, min_size=1, max_size=8), st.integers(0, 2**32))
def test_never_exceed_max_backoff(policy: RetryPolicy, outcomes: list[Outcome], seed: int) -> None:
    """NeverExceedMaxBackoff: no wait is negative or longer than ``max_backoff``, except a server's pushback."""
    for outcome, delay in zip(outcomes, decisions(policy, outcomes, seed), strict=False):
        if isinstance(delay, str):
            return
        if outcome.pushback is None:
            assert 0.0 <= delay <= policy.max_backoff
        else:
            assert delay == outcome.pushback >= 0.0
