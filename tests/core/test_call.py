"""The machine of one call against a cluster that answers from a list. Each test sets the time."""

import pytest
from tests.core.calls import RETRY, A, B, C, begun
from tests.core.scripted import CANCELLED, METHOD, REFUSED, UNAVAILABLE, Ear, ScriptedCluster, brief, ended, plan

from meshlib._core.attempts.retry import LOCAL
from meshlib._core.call import Call, State
from meshlib._core.commands import Finish, StartAttempt
from meshlib._core.events import AttemptEnded, AttemptStarted, NotRetried, PickQueued, Retrying
from meshlib._core.policy import RetryPolicy
from meshlib._core.status import OK, Outcome

# --- attempts and retries ------------------------------------------------------------


def test_one_attempt() -> None:
    """A successful call has one attempt, one report and one end; no timer remains."""
    cluster = ScriptedCluster(A)
    call = begun(cluster, deadline=5.0)
    assert call.next_timer() is None
    outcome = Outcome("OK", error="what grpc gave")
    (finish,) = call.on_outcome(1, outcome, now=0.2)
    assert isinstance(finish, Finish)
    assert (finish.n, finish.outcome) == (1, outcome)
    assert cluster.reports == [("a", "OK")]
    assert call.attempts[0].seconds == 0.2
    assert call.state is State.DONE
    assert call.next_timer() is None
    assert call.verdict == ""


def test_a_retry_on_the_next_host_after_a_back_off() -> None:
    """Attempts follow full-jitter back-offs. Each has the remaining deadline and the count of earlier attempts."""
    call = begun(ScriptedCluster(A, B, C), deadline=10.0)
    starts: list[StartAttempt] = []
    assert call.on_outcome(1, UNAVAILABLE, now=1.0) == ()
    assert call.state is State.BACKOFF
    assert call.next_timer() == 1.05
    assert call.on_timer(now=1.04) == ()
    starts += call.on_timer(now=1.05)  # type: ignore[arg-type]
    call.on_outcome(2, UNAVAILABLE, now=2.0)
    assert call.next_timer() == 2.1
    starts += call.on_timer(now=2.2)  # type: ignore[arg-type]
    assert brief(starts) == ["start 2 b retry", "start 3 c retry"]
    assert [start.record.timeout for start in starts] == [pytest.approx(8.95), pytest.approx(7.8)]
    assert [start.previous for start in call.attempts] == [0, 1, 2]
    assert brief(call.on_outcome(3, OK, now=2.5)) == ["finish 3 OK"]


def test_too_many_attempts() -> None:
    """After ``max_attempts`` the last error is the call's, and the explanation says so."""
    call = begun(ScriptedCluster(A, B, A))
    for n in (1, 2):
        call.on_outcome(n, UNAVAILABLE, now=n)
        call.on_timer(now=n + 0.5)
    last = Outcome("UNAVAILABLE", "connection refused")
    assert ended(call.on_outcome(3, last, now=3.0)) is last
    assert call.verdict == "all 3 attempts were used"
    assert call.explain(last) == (
        "UNAVAILABLE after 3 attempts on 2 endpoints (all 3 attempts were used); last: a connection refused"
    )


@pytest.mark.parametrize(
    ("policy", "outcome", "verdict"),
    [
        (None, UNAVAILABLE, "retries are disabled"),
        (RETRY, Outcome("INVALID_ARGUMENT"), "INVALID_ARGUMENT is not retried"),
        (RETRY, Outcome("UNAVAILABLE", pushback=-1.0), "server pushback forbids a retry"),
        (RetryPolicy(unsent_only=True), UNAVAILABLE, "the attempt may have reached a server, and unsent_only=True"),
        (RETRY, Outcome("DEADLINE_EXCEEDED"), "DEADLINE_EXCEEDED is not retried"),
        (None, Outcome("CANCELLED"), "retries are disabled"),
        (
            RetryPolicy(unsent_only=True),
            Outcome("CANCELLED"),
            "the attempt may have reached a server, and unsent_only=True",
        ),
        (RetryPolicy(retryable_status_codes={"UNAVAILABLE"}), Outcome("CANCELLED"), "CANCELLED is not retried"),  # type: ignore[arg-type]
        (RETRY, Outcome("CANCELLED", "by the caller", local=True), LOCAL),
        (RETRY, Outcome("UNAVAILABLE", "a plug-in raised", sent=False, local=True), LOCAL),
        (RetryPolicy(unsent_only=True), Outcome("UNAVAILABLE", "a plug-in raised", sent=False, local=True), LOCAL),
    ],
)
def test_what_is_not_tried_again(policy: RetryPolicy | None, outcome: Outcome, verdict: str) -> None:
    """A failure that the policy does not retry ends the call at once, with that failure and a reason in words."""
    call = begun(ScriptedCluster(A), policy)
    assert ended(call.on_outcome(1, outcome, now=1.0)) is outcome
    assert call.verdict == verdict
    assert call.explain(outcome).startswith(f"{outcome.code} after 1 attempt on 1 endpoint ({verdict}); last: a")


def test_cancelled_by_a_server_is_retried() -> None:
    """A stopping Python server ends calls with CANCELLED; the default policy retries it like UNAVAILABLE."""
    call = begun(ScriptedCluster(A, B), RetryPolicy())
    assert call.on_outcome(1, Outcome("CANCELLED"), now=1.0) == ()
    assert brief(call.on_timer(now=2.0)) == ["start 2 b retry"]
    assert call.attempts[0].outcome is not None
    assert call.attempts[0].outcome.sent


@pytest.mark.parametrize("why", ["message", "headers"])
def test_cancelled_by_a_server_after_part_of_an_answer_is_final(why: str) -> None:
    """A response the application has received cannot be repeated."""
    call = Call(ScriptedCluster(A, B), plan(RetryPolicy()), METHOD, streaming=True)  # type: ignore[arg-type]
    call.begin(now=0.0)
    call.on_commit(1, why, now=0.5)
    cancelled = Outcome("CANCELLED")
    assert ended(call.on_outcome(1, cancelled, now=1.0)) is cancelled


def test_cancelled_by_the_closing_channel_is_final() -> None:
    """grpc also reports CANCELLED when a channel is closed."""
    cluster = ScriptedCluster(A, B)
    call = begun(cluster, RetryPolicy())
    cluster.closed = True
    cancelled = Outcome("CANCELLED", "Channel closed!")
    assert ended(call.on_outcome(1, cancelled, now=1.0)) is cancelled
    assert call.verdict == "the channel was closed"


def test_what_was_not_sent_is_tried_again_under_unsent_only() -> None:
    """``unsent_only`` retries an attempt of which no byte reached a server."""
    call = begun(ScriptedCluster(A, B), RetryPolicy(unsent_only=True))
    assert call.on_outcome(1, Outcome("UNAVAILABLE", sent=False), now=1.0) == ()
    assert brief(call.on_timer(now=2.0)) == ["start 2 b retry"]


def test_the_back_off_bound_doubles_up_to_the_maximum() -> None:
    """Each wait is the drawn fraction of a bound that grows by the multiplier up to ``max_backoff``."""
    policy = RetryPolicy(max_attempts=6, initial_backoff=0.1, max_backoff=0.5)
    call = begun(ScriptedCluster(A, fraction=1.0), policy)
    waits = []
    for n in range(1, 6):
        call.on_outcome(n, UNAVAILABLE, now=float(n))
        waits.append(call.next_timer() - n)  # type: ignore[operator]
        call.on_timer(now=n + 0.5)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


# --- what its error says -------------------------------------------------------------


def test_details_are_the_last_servers_words() -> None:
    """The server's words are unchanged after any number of attempts; the text of the error lists all attempts."""
    call = begun(ScriptedCluster(A, B))
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    call.on_timer(now=2.0)
    last = Outcome("NOT_FOUND", "no such order")
    outcome = ended(call.on_outcome(2, last, now=3.0))
    assert call.details(outcome) == "no such order"
    text = "NOT_FOUND after 2 attempts on 2 endpoints (NOT_FOUND is not retried); last: b no such order"
    assert call.explain(outcome) == text


@pytest.mark.parametrize(
    ("outcome", "details"),
    [
        (
            Outcome("DEADLINE_EXCEEDED", "Stream removed (Deadline Exceeded)", answered=False, error="grpc's"),
            "Deadline Exceeded: /test.Service/Method on 'svc-a'",
        ),
        (
            Outcome("DEADLINE_EXCEEDED", "no message within per_attempt_timeout=1.0 s", answered=False),
            "no message within per_attempt_timeout=1.0 s: /test.Service/Method on 'svc-a'",
        ),
        (Outcome("DEADLINE_EXCEEDED", "the database was slow", error="grpc's"), "the database was slow"),
    ],
)
def test_a_deadline_that_no_server_reported_names_method_and_target(outcome: Outcome, details: str) -> None:
    """The details never have a host's address, which the text of the error has. A server's words stay."""
    call = begun(ScriptedCluster(A))
    assert ended(call.on_outcome(1, outcome, now=1.0)) is outcome
    assert call.details(outcome) == details
    assert call.explain(outcome).endswith(f"; last: a {details}")


# --- cancel --------------------------------------------------------------------------


def test_cancel_while_an_attempt_is_in_flight() -> None:
    """The attempt is cancelled and the call ends; the outcome that follows only lowers the in-flight count."""
    cluster = ScriptedCluster(A)
    call = begun(cluster)
    assert brief(call.on_cancel(CANCELLED, now=1.0)) == ["cancel 1", "finish 0 CANCELLED"]
    assert cluster.in_flight[A] == 1
    assert call.on_outcome(1, CANCELLED, now=1.1) == ()
    assert cluster.in_flight[A] == 0


def test_cancel_during_the_back_off() -> None:
    """Cancelling ends the call at once and releases its share of the budget."""
    cluster = ScriptedCluster(A)
    call = begun(cluster)
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    assert cluster.held == 1
    assert brief(call.on_cancel(CANCELLED, now=1.01)) == ["finish 0 CANCELLED"]
    assert (cluster.held, cluster.resting) == (0, set())
    assert call.on_timer(now=2.0) == ()


def test_cancel_while_waiting_and_before_the_start() -> None:
    """Neither leaks anything, and a cancelled call does not begin."""
    cluster = ScriptedCluster(None)
    call = Call(cluster, plan(RETRY), METHOD)  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert brief(call.on_cancel(CANCELLED, now=1.0)) == ["finish 0 CANCELLED"]
    assert cluster.waiting == set()
    early = Call(cluster, plan(RETRY), METHOD)  # type: ignore[arg-type]
    assert brief(early.on_cancel(CANCELLED, now=0.0)) == ["finish 0 CANCELLED"]
    assert early.begin(now=0.0) == ()


def test_every_input_is_legal_after_the_end() -> None:
    """Inputs after the end are ignored."""
    call = begun(ScriptedCluster(A))
    call.on_outcome(1, OK, now=1.0)
    assert call.begin(now=2.0) == ()
    assert call.on_cancel(CANCELLED, now=2.0) == ()
    assert call.on_timer(now=2.0) == ()
    assert call.on_endpoints(now=2.0) == ()
    assert call.on_commit(1, "message", now=2.0) == ()
    assert call.next_timer() is None


def test_an_outcome_comes_once() -> None:
    """Reporting an attempt twice is an error of the shell, and raises."""
    call = begun(ScriptedCluster(A))
    call.on_outcome(1, OK, now=1.0)
    with pytest.raises(AssertionError, match=r"attempt 1 of .* was reported twice"):
        call.on_outcome(1, OK, now=1.0)


# --- commit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "verdict"),
    [
        ("message", "the application had already received a message"),
        ("headers", "the application had already read the response headers"),
        ("buffer", "the requests exceeded the replay buffer (buffer_size)"),
    ],
)
def test_a_committed_attempt_is_the_last(why: str, verdict: str) -> None:
    """After the commit a failure is the call's, even one that grpc did not send."""
    for outcome in (UNAVAILABLE, REFUSED):
        call = begun(ScriptedCluster(A, B), streaming=True)
        assert call.on_commit(1, why, now=0.5) == ()
        assert call.committed == 1
        assert ended(call.on_outcome(1, outcome, now=1.0)) is outcome
        assert call.verdict == verdict


def test_a_commit_of_what_no_longer_counts() -> None:
    """An attempt that failed or was cancelled can no longer be committed."""
    call = begun(ScriptedCluster(A, B))
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    assert call.on_commit(1, "message", now=1.0) == ()
    assert call.committed == 0
    assert brief(call.on_timer(now=2.0)) == ["start 2 b retry"]
    assert call.on_commit(1, "message", now=2.0) == ()
    assert call.on_commit(2, "message", now=2.0) == ()
    assert call.committed == 2


def test_a_verdict_belongs_to_a_failure() -> None:
    """A committed call that succeeds has no verdict."""
    call = begun(ScriptedCluster(A), streaming=True)
    call.on_commit(1, "message", now=0.5)
    call.on_outcome(1, OK, now=1.0)
    assert call.verdict == ""


# --- events and repr -----------------------------------------------------------------


def test_what_an_observer_hears() -> None:
    """Each step of a call is an event with its stage, in order."""
    ear = Ear()
    call = Call(ScriptedCluster(None, None, A, B), plan(RETRY), METHOD)  # type: ignore[arg-type]
    call.observe(ear)
    call.begin(now=0.0)
    call.on_endpoints(now=0.5)
    call.on_endpoints(now=1.0)
    call.on_outcome(1, UNAVAILABLE, now=2.0)
    call.on_timer(now=3.0)
    call.on_outcome(2, Outcome("ABORTED"), now=4.0)
    assert ear.calls == [
        PickQueued(at=0.0),
        AttemptStarted(at=1.0, n=1, address="a", why="first"),
        AttemptEnded(at=2.0, n=1, address="a", code="UNAVAILABLE", seconds=1.0),
        Retrying(at=2.0, n=1, delay=0.05),
        AttemptStarted(at=3.0, n=2, address="b", why="retry"),
        AttemptEnded(at=4.0, n=2, address="b", code="ABORTED", seconds=1.0),
        NotRetried(at=4.0, n=2, why="ABORTED is not retried"),
    ]


def test_commands_can_be_read() -> None:
    """The repr of a command shows its content."""
    call = begun(ScriptedCluster(A))
    assert repr(call.attempts[0]) == "<attempt 1 a first: in flight>"
    cancel, finish = call.on_cancel(CANCELLED, now=1.0)
    assert (repr(cancel), repr(finish)) == ("<cancel 1>", "<finish 0 CANCELLED>")
    call.on_outcome(1, CANCELLED, now=1.0)
    assert repr(call.attempts[0]) == "<attempt 1 a first: CANCELLED after 1.000 s>"


@pytest.mark.parametrize(("every_event", "seen"), [(True, [1, 2]), (False, [2])])
def test_an_observer_adds_metadata_to_the_attempts_it_is_notified_of(every_event: bool, seen: list[int]) -> None:
    """One that does not need every event is not notified of a first attempt."""
    ear = Ear()
    ear.every_event, ear.metadata = every_event, (("traceparent", "00-1"),)
    call = Call(ScriptedCluster(A, B), plan(RETRY), METHOD)  # type: ignore[arg-type]
    call.observe(ear)
    call.begin(now=0.0)
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    call.on_timer(now=2.0)
    assert [attempt.n for attempt in call.attempts if attempt.carrier == ear.metadata] == seen


def test_the_start_of_a_call_that_never_began() -> None:
    """A call that is cancelled or interrupted first has lasted no time."""
    cancelled, interrupted = (Call(ScriptedCluster(A), plan(), METHOD) for _ in range(2))  # type: ignore[arg-type]
    assert brief(cancelled.on_cancel(CANCELLED, now=7.0)) == ["finish 0 CANCELLED"]
    assert interrupted.abandon(CANCELLED, now=7.0) == ()
    assert (cancelled.begun, interrupted.begun) == (7.0, 7.0)
    late = begun(ScriptedCluster(A), now=5.0)
    late.on_cancel(CANCELLED, now=7.0)
    assert late.begun == 5.0


def test_a_call_releases_the_errors_of_its_attempts() -> None:
    """Attempts that ended hold none afterwards; one in flight has none."""
    call = begun(ScriptedCluster(A, B))
    call.on_outcome(1, Outcome("UNAVAILABLE", error=RuntimeError()), now=1.0)
    call.on_timer(now=2.0)
    call.release_errors()
    assert [attempt.outcome and attempt.outcome.error for attempt in call.attempts] == [None, None]
