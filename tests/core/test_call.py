"""The machine of one call against a cluster that answers from a list. Each test sets the time."""

import math

import pytest
from tests.core.scripted import CANCELLED, METHOD, REFUSED, UNAVAILABLE, Ear, ScriptedCluster, brief, ended, host, plan

from meshlib._core.attempts.budget import LOSS_PATIENCE, LOSS_POLLS, LOSS_SHOWS
from meshlib._core.attempts.retry import LOCAL
from meshlib._core.call import Call, State
from meshlib._core.cluster import CLOSED
from meshlib._core.commands import Finish, StartAttempt
from meshlib._core.events import AttemptEnded, AttemptStarted, NotRetried, PickQueued, Retrying
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.status import OK, Outcome, local

A, B, C = host("a"), host("b"), host("c")
RETRY = RetryPolicy(initial_backoff=0.1, max_backoff=1.0)  # and a random fraction of one half: 0.05 s, 0.1 s, 0.2 s
NO_HOST = local("UNAVAILABLE", "svc-a has no endpoints: NXDOMAIN")


def begun(
    cluster: ScriptedCluster, policy: RetryPolicy | HedgingPolicy | None = RETRY, *, now: float = 0.0, **more: object
) -> Call:
    """A call whose first attempt has started at ``now``."""
    call = Call(cluster, plan(policy), METHOD, **more)  # type: ignore[arg-type]
    if call.streaming:
        call.on_reading(now=now)
    assert brief(call.begin(now=now)) == ["start 1 a first"]
    return call


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


# --- pushback (gRFC A6) --------------------------------------------------------------


def test_server_pushback_delay() -> None:
    """A pushback is obeyed to the millisecond, and the back-off restarts after it."""
    call = begun(ScriptedCluster(A), RetryPolicy(max_attempts=5, initial_backoff=0.1, max_backoff=10.0))
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    call.on_timer(now=1.05)
    call.on_outcome(2, Outcome("UNAVAILABLE", pushback=2.0), now=2.0)
    assert call.next_timer() == 4.0
    call.on_timer(now=4.0)
    call.on_outcome(3, UNAVAILABLE, now=5.0)
    assert call.next_timer() == pytest.approx(5.05)


@pytest.mark.parametrize(
    ("pushback", "attempts", "verdict"),
    [(0.0, 3, "all 3 attempts were used"), (60.0, 1, "the backoff of 60.000 s would exceed the deadline")],
)
def test_pushback_has_limits(pushback: float, attempts: int, verdict: str) -> None:
    """A pushback adds no attempt and does not extend the deadline."""
    call = begun(ScriptedCluster(A), deadline=30.0)
    now, n, commands = 1.0, 0, ()
    while not commands:
        n += 1
        commands = call.on_outcome(n, Outcome("UNAVAILABLE", pushback=pushback), now=now)
        if call.state is State.BACKOFF:
            now += 1.0
            call.on_timer(now=now)
    assert (n, call.verdict) == (attempts, verdict)


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


# --- the deadline --------------------------------------------------------------------


def test_a_back_off_past_the_deadline_ends_the_call_now() -> None:
    """The call ends with the last error, long before the deadline."""
    cluster = ScriptedCluster(A, fraction=1.0)
    call = begun(cluster, deadline=1.05)
    assert ended(call.on_outcome(1, UNAVAILABLE, now=1.0)) is UNAVAILABLE
    assert call.verdict == "the backoff of 0.100 s would exceed the deadline"
    assert (cluster.held, cluster.resting) == (0, set())


def test_a_timer_that_comes_after_the_deadline() -> None:
    """A back-off whose timer is late starts no attempt."""
    cluster = ScriptedCluster(A)
    call = begun(cluster, deadline=2.0)
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    outcome = ended(call.on_timer(now=2.5))
    assert (outcome.code, outcome.local) == ("DEADLINE_EXCEEDED", True)
    assert outcome.details == "Deadline Exceeded: /test.Service/Method on 'svc-a'; last attempt: UNAVAILABLE"
    assert call.explain(outcome).endswith("last: a " + outcome.details + " (gone)")
    assert cluster.held == 0


def test_a_deadline_that_has_passed_at_the_start() -> None:
    """Nothing is sent, and no host counts a failure."""
    cluster = ScriptedCluster(A)
    call = Call(cluster, plan(RETRY), METHOD, deadline=1.0)  # type: ignore[arg-type]
    outcome = ended(call.begin(now=1.0))
    assert (outcome.code, outcome.sent) == ("DEADLINE_EXCEEDED", False)
    assert outcome.details == "Deadline Exceeded: /test.Service/Method on 'svc-a'"
    assert not cluster.reports


def test_a_deadline_while_waiting_for_a_host() -> None:
    """The error names the reason of the wait."""
    cluster = ScriptedCluster(None)
    call = Call(cluster, plan(RETRY), METHOD, deadline=3.0, wait_for_ready=True)  # type: ignore[arg-type]
    assert call.begin(now=0.0) == ()
    assert call.state is State.WAITING
    assert call.next_timer() == 3.0
    details = ended(call.on_timer(now=3.0)).details
    assert details == "Deadline Exceeded: /test.Service/Method on 'svc-a': no endpoint is ready"
    assert cluster.waiting == set()


def test_endpoints_that_come_too_late() -> None:
    """A host that becomes ready after the deadline gets no attempt."""
    call = Call(ScriptedCluster(None, A), plan(RETRY), METHOD, deadline=3.0)  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert ended(call.on_endpoints(now=3.0)).code == "DEADLINE_EXCEEDED"


# --- waiting -------------------------------------------------------------------------


def test_a_call_waits_and_is_woken() -> None:
    """Without a host a call waits; a wake without a host changes nothing; a new host gets the attempt."""
    cluster = ScriptedCluster(None, None, A)
    call = Call(cluster, plan(RETRY), METHOD)  # type: ignore[arg-type]
    told = []
    assert call.begin(now=0.0) == ()
    assert call.next_timer() is None
    call.wake()
    assert call.woken
    call.waker = lambda: told.append("waker")
    call.wake()
    assert told == ["waker"]
    assert call.on_endpoints(now=1.0) == ()
    assert not call.woken
    assert brief(call.on_endpoints(now=2.0)) == ["start 1 a first"]


def test_what_no_host_means() -> None:
    """Before the first attempt the cluster's outcome is the call's."""
    call = Call(ScriptedCluster(NO_HOST), plan(RETRY), METHOD)  # type: ignore[arg-type]
    assert ended(call.begin(now=0.0)) is NO_HOST
    assert call.attempts == ()


def test_hosts_that_vanish_before_a_retry() -> None:
    """After an attempt the last server's error is more useful than the lack of a host."""
    call = begun(ScriptedCluster(A, NO_HOST))
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    assert ended(call.on_timer(now=2.0)) is UNAVAILABLE
    assert call.verdict == NO_HOST.details


@pytest.mark.parametrize("closing", ["waiting", "backing off", "while it is decided"])
def test_the_channel_closes(closing: str) -> None:
    """A closing channel ends a call in any wait, with grpc's own details."""
    cluster = ScriptedCluster(A, CLOSED)
    if closing == "waiting":
        cluster.picks.appendleft(None)
        cluster.picks.remove(A)
        call = Call(cluster, plan(RETRY), METHOD)  # type: ignore[arg-type]
        call.begin(now=0.0)
        cluster.closed = True
        commands = call.on_endpoints(now=1.0)
    else:
        call = begun(cluster)
        if closing == "backing off":
            call.on_outcome(1, UNAVAILABLE, now=1.0)
            assert cluster.resting == {call}
            assert call.on_endpoints(now=1.0) == ()
            cluster.closed = True
            commands = call.on_endpoints(now=1.01)
        else:
            cluster.closed = True
            commands = call.on_outcome(1, UNAVAILABLE, now=1.0)
    assert ended(commands) is CLOSED
    assert (CLOSED.code, CLOSED.details) == ("CANCELLED", "Channel closed!")
    assert (cluster.held, cluster.waiting, cluster.resting) == (0, set(), set())


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


# --- per_attempt_timeout -------------------------------------------------------------

PATIENCE = RetryPolicy(per_attempt_timeout=1.0, initial_backoff=0.1, max_backoff=1.0)
LATE = Outcome("DEADLINE_EXCEEDED", "Deadline Exceeded")


@pytest.mark.parametrize(("deadline", "timeout"), [(None, 1.0), (5.0, 1.0), (0.25, 0.25)])
def test_an_attempt_may_take_the_lesser_of_two_times(deadline: float | None, timeout: float) -> None:
    """grpc enforces the smaller of ``per_attempt_timeout`` and the remaining deadline."""
    call = begun(ScriptedCluster(A), PATIENCE, deadline=deadline)
    assert call.attempts[0].timeout == timeout


def test_retry_per_attempt_timeout() -> None:
    """An attempt that timed out is retried like UNAVAILABLE; the last one surfaces as DEADLINE_EXCEEDED."""
    call = begun(ScriptedCluster(A, B, C), PATIENCE)
    assert call.on_outcome(1, LATE, now=0.999) == ()  # grpc's clock rounds
    call.on_timer(now=1.2)
    assert call.on_outcome(2, LATE, now=2.2) == ()
    call.on_timer(now=3.0)
    assert ended(call.on_outcome(3, LATE, now=4.0)) is LATE


@pytest.mark.parametrize(("deadline", "now"), [(None, 0.5), (0.9, 0.9), (1.5, 1.5)])
def test_a_deadline_that_was_not_the_attempts_own(deadline: float | None, now: float) -> None:
    """DEADLINE_EXCEEDED from a server, or from the whole call's deadline, is not retried."""
    call = begun(ScriptedCluster(A, B), PATIENCE, deadline=deadline)
    assert ended(call.on_outcome(1, LATE, now=now)) is LATE


def test_a_stream_is_given_up_by_the_machines_own_clock() -> None:
    """grpc gets only the deadline; without a message in time the attempt is cancelled, reported and retried."""
    cluster = ScriptedCluster(A, B)
    call = begun(cluster, PATIENCE, streaming=True, deadline=60.0)
    assert call.attempts[0].timeout == 60.0
    assert call.next_timer() == 1.0
    assert call.on_timer(now=0.9) == ()
    assert brief(call.on_timer(now=1.0)) == ["cancel 1"]
    assert repr(call.attempts[0]) == "<attempt 1 a first: DEADLINE_EXCEEDED>"
    assert call.on_outcome(1, CANCELLED, now=1.01) == ()
    assert cluster.reports == [("a", "DEADLINE_EXCEEDED")]
    assert brief(call.on_timer(now=call.next_timer() or math.nan)) == ["start 2 b retry"]
    assert call.on_commit(2, "message", now=1.5) == ()
    assert call.next_timer() is None
    assert brief(call.on_outcome(2, OK, now=100.0)) == ["finish 2 OK"]


def test_the_last_stream_that_is_given_up() -> None:
    """The call ends DEADLINE_EXCEEDED after its attempt is cancelled."""
    call = begun(ScriptedCluster(A), RetryPolicy(max_attempts=2, per_attempt_timeout=1.0), streaming=True)
    call.on_timer(now=1.0)
    call.on_timer(now=2.0)
    commands = call.on_timer(now=3.5)
    assert brief(commands) == ["cancel 2", "finish 2 DEADLINE_EXCEEDED"]
    assert ended(commands).details == "no message within per_attempt_timeout=1.0 s"


def test_requests_that_fill_the_buffer_are_no_answer() -> None:
    """A stream committed by its requests still times out without a message, and is not retried. A message ends the
    wait, and requests that fill the buffer afterwards do not restart it."""
    call = begun(ScriptedCluster(A), PATIENCE, streaming=True)
    call.on_commit(1, "buffer", now=0.1)
    assert call.next_timer() == 1.0
    assert brief(call.on_timer(now=1.0)) == ["cancel 1", "finish 1 DEADLINE_EXCEEDED"]
    patient = begun(ScriptedCluster(A), PATIENCE, streaming=True)
    for why in ("buffer", "message", "buffer"):
        patient.on_commit(1, why, now=0.1)
    assert patient.next_timer() is None


# --- refused: transparent retries ----------------------------------------------------


@pytest.mark.parametrize("policy", [RETRY, None, HedgingPolicy()])
def test_what_grpc_did_not_send_is_sent_again_at_once(policy: RetryPolicy | HedgingPolicy | None) -> None:
    """A refused attempt is re-picked under any policy: uncounted, uncharged, without a wait."""
    cluster = ScriptedCluster(A, B, places=0)
    call = begun(cluster, policy)
    assert brief(call.on_outcome(1, REFUSED, now=1.0)) == ["start 2 b refused"]
    assert call.attempts[1].previous == 0
    assert cluster.held == 0


def test_refused_once_a_host() -> None:
    """A second refusal by the same host is an ordinary failure and counts; so do the attempts after it."""
    call = begun(ScriptedCluster(A, A, B, C))
    assert brief(call.on_outcome(1, REFUSED, now=1.0)) == ["start 2 a refused"]
    assert call.on_outcome(2, REFUSED, now=1.0) == ()
    assert brief(call.on_timer(now=2.0)) == ["start 3 b retry"]
    assert brief(call.on_outcome(3, REFUSED, now=2.0)) == ["start 4 c refused"]
    assert call.on_outcome(4, UNAVAILABLE, now=2.0) == ()
    assert brief(call.on_timer(now=3.0)) == ["start 5 c retry"]
    assert [attempt.previous for attempt in call.attempts] == [0, 0, 1, 1, 2]
    assert ended(call.on_outcome(5, UNAVAILABLE, now=3.0)) is UNAVAILABLE


def test_refused_with_no_ready_host() -> None:
    """Without a ready host the refusal is the true reason, and the policy applies to it."""
    assert ended(begun(ScriptedCluster(A, ready=0), None).on_outcome(1, REFUSED, now=1.0)) is REFUSED
    assert begun(ScriptedCluster(A, ready=0), RETRY).on_outcome(1, REFUSED, now=1.0) == ()


def test_refused_while_it_waits_for_ready() -> None:
    """A call that waits for ready waits again, under any policy."""
    cluster = ScriptedCluster(A, None, B, ready=0)
    call = begun(cluster, None, wait_for_ready=True)
    assert call.on_outcome(1, REFUSED, now=1.0) == ()
    assert call.state is State.WAITING
    assert brief(call.on_endpoints(now=2.0)) == ["start 2 b refused"]


def test_a_refused_retry_keeps_its_place_in_the_budget() -> None:
    """The retry holds one share of the budget across its attempts, and releases it once."""
    cluster = ScriptedCluster(A, B, C)
    call = begun(cluster)
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    call.on_timer(now=2.0)
    assert brief(call.on_outcome(2, REFUSED, now=2.0)) == ["start 3 c refused"]
    assert cluster.held == 1
    call.on_outcome(3, OK, now=3.0)
    assert cluster.held == 0


# --- the retry budget ----------------------------------------------------------------


def test_a_retry_holds_its_place_from_the_decision_to_its_end() -> None:
    """The share is held in the back-off and in flight, until the next decision."""
    cluster = ScriptedCluster(A)
    call = begun(cluster)
    assert cluster.held == 0
    for n in (1, 2):
        call.on_outcome(n, UNAVAILABLE, now=float(n))
        assert cluster.held == 1
        call.on_timer(now=n + 0.5)
        assert cluster.held == 1
    call.on_outcome(3, UNAVAILABLE, now=4.0)
    assert cluster.held == 0


def test_retry_beyond_the_budget() -> None:
    """Checked at the end of a back-off of at least a moment, so that a host still connected is not overloaded."""
    cluster = ScriptedCluster(A, B, places=0, fraction=0.0)
    call = begun(cluster)
    assert call.on_outcome(1, UNAVAILABLE, now=1.0) == ()
    assert call.next_timer() == 1.0 + LOSS_SHOWS
    assert ended(call.on_timer(now=1.1)) is UNAVAILABLE
    assert call.verdict == "retry budget exhausted"
    assert (cluster.refusals, cluster.held) == (1, 0)


def test_retry_of_what_a_host_took_with_it() -> None:
    """A lost host cannot be overloaded: its calls are retried beyond the budget."""
    cluster = ScriptedCluster(A, B, places=0)
    call = begun(cluster)
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    cluster.lost_hosts.add(A)
    assert brief(call.on_timer(now=1.1)) == ["start 2 b retry"]
    call.on_outcome(2, OK, now=2.0)
    assert (cluster.refusals, cluster.held) == (0, 0)


def test_a_lost_connection_is_given_time_in_seconds_and_in_polls() -> None:
    """A stalled machine polls once in a second: waiting ends only when both seconds and polls have passed."""
    cluster = ScriptedCluster(A, B, places=0)
    call = begun(cluster)
    call.on_outcome(1, Outcome("UNAVAILABLE", "Socket closed", answered=False), now=1.0)
    stalled = 1.0 + 5 * LOSS_PATIENCE
    assert call.on_timer(now=stalled) == ()
    for n in range(1, LOSS_POLLS - 1):
        assert call.on_timer(now=stalled + n * LOSS_SHOWS) == ()
    cluster.lost_hosts.add(A)
    assert brief(call.on_timer(now=stalled + LOSS_POLLS * LOSS_SHOWS)) == ["start 2 b retry"]


def test_patience_with_a_connection_that_was_not_lost_ends() -> None:
    """The call fails after the last poll, and not before the time has passed either."""
    cluster = ScriptedCluster(A, B, places=0)
    call = begun(cluster)
    call.on_outcome(1, Outcome("UNAVAILABLE", "Socket closed", answered=False), now=1.0)
    now, commands = 1.0, ()
    while not commands:
        timer = call.next_timer()
        assert timer is not None
        now = timer
        commands = call.on_timer(now=now)
    assert ended(commands).code == "UNAVAILABLE"
    assert now - 1.0 == pytest.approx(LOSS_PATIENCE, abs=2 * LOSS_SHOWS)


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


def test_commands_can_be_read() -> None:
    """The repr of a command shows its content."""
    call = begun(ScriptedCluster(A))
    assert repr(call.attempts[0]) == "<attempt 1 a first: in flight>"
    cancel, finish = call.on_cancel(CANCELLED, now=1.0)
    assert (repr(cancel), repr(finish)) == ("<cancel 1>", "<finish 0 CANCELLED>")
    call.on_outcome(1, CANCELLED, now=1.0)
    assert repr(call.attempts[0]) == "<attempt 1 a first: CANCELLED after 1.000 s>"
