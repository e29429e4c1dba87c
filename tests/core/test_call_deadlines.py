"""Waits of one call: its deadline, the wait for a host, and ``per_attempt_timeout``. Each test sets the time."""

import math

import pytest
from tests.core.calls import RETRY, A, B, C, begun
from tests.core.scripted import CANCELLED, METHOD, UNAVAILABLE, ScriptedCluster, brief, ended, plan

from meshlib._core.call import Call, State
from meshlib._core.cluster import CLOSED
from meshlib._core.policy import RetryPolicy
from meshlib._core.status import OK, Outcome, local

NO_HOST = local("UNAVAILABLE", "svc-a has no endpoints: NXDOMAIN")


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
