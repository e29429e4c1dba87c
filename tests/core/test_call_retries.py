"""Further attempts of one call: pushback, refused attempts, and the retry budget. Each test sets the time."""

import pytest
from tests.core.calls import RETRY, A, B, C, begun
from tests.core.scripted import REFUSED, UNAVAILABLE, ScriptedCluster, brief, ended

from meshlib._core.attempts.budget import LOSS_PATIENCE, LOSS_POLLS, LOSS_SHOWS
from meshlib._core.call import State
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.status import OK, Outcome

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
