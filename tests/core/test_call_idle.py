"""Attempts of one call without a message for ``per_attempt_idle_timeout``. Each test sets the time."""

import pytest
from tests.core.calls import A, B
from tests.core.scripted import ScriptedCluster, brief, plan

from meshlib._core.attempts.policy import RetryPolicy
from meshlib._core.call import Call


def streaming(**policy: object) -> Call:
    """A stream that has begun and is read, on a host that is not lost."""
    call = Call(ScriptedCluster(A, B), plan(RetryPolicy(**policy)), "/s/M", streaming=True)  # type: ignore[arg-type]
    call.on_reading(now=0.0)
    call.begin(now=0.0)
    return call


def test_an_idle_attempt_is_tried_again() -> None:
    """Before its first message it is ended like one that times out."""
    call = streaming(per_attempt_idle_timeout=1.0)
    assert call.next_timer() == 1.0
    assert brief(call.on_timer(now=1.0)) == ["cancel 1"]
    assert call.attempts[0].outcome is not None
    assert call.attempts[0].outcome.details == "no message within per_attempt_idle_timeout=1.0 s"
    timer = call.next_timer()
    assert timer is not None
    assert brief(call.on_timer(now=timer)) == ["start 2 b retry"]


def test_a_stream_that_falls_silent_ends() -> None:
    """Delivered messages cannot be retried."""
    call = streaming(per_attempt_idle_timeout=1.0)
    call.on_commit(1, "message", now=0.5)
    call.on_message()
    assert call.next_timer() is None
    call.on_reading(now=7.0)
    assert call.on_timer(now=7.9) == ()
    commands = call.on_timer(now=8.0)
    assert brief(commands) == ["cancel 1", "finish 1 DEADLINE_EXCEEDED"]
    assert call.verdict == "the application had already received a message"


def test_a_stream_that_goes_on_lives() -> None:
    """Each message restarts the time; the time between reads is the application's own."""
    call = streaming(per_attempt_idle_timeout=1.0, per_attempt_timeout=3.0)
    assert call.next_timer() == 1.0
    call.on_reading(now=0.9)
    assert call.next_timer() == 1.9
    call.on_reading(now=2.5)
    assert call.next_timer() == 3.5
    call.on_commit(1, "message", now=2.6)
    call.on_message()
    for now in (3.5, 4.4, 100.0):
        call.on_reading(now=now)
        assert call.next_timer() == now + 1.0
        call.on_message()


@pytest.mark.parametrize("limit", ["per_attempt_timeout", "per_attempt_idle_timeout"])
def test_time_runs_from_when_somebody_reads(limit: str) -> None:
    """A message may have arrived long ago: if it is unread, the host is not at fault. The same holds for retries."""
    call = Call(ScriptedCluster(A, B), plan(RetryPolicy(**{limit: 1.0})), "/s/M", streaming=True)  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert call.next_timer() is None
    call.on_reading(now=5.0)
    assert call.next_timer() == 6.0
    assert brief(call.on_timer(now=6.0)) == ["cancel 1"]
    timer = call.next_timer()
    assert timer is not None
    call.on_timer(now=timer)
    assert call.next_timer() == timer + 1.0


@pytest.mark.parametrize(("idle", "limit", "expected"), [(1.0, None, 1.0), (1.0, 0.5, 0.5), (0.5, 1.0, 0.5)])
def test_one_response_is_idle_until_it_comes(idle: float, limit: float | None, expected: float) -> None:
    """grpc gets the shorter of the two limits."""
    policy = RetryPolicy(per_attempt_idle_timeout=idle, per_attempt_timeout=limit)
    call = Call(ScriptedCluster(A), plan(policy), "/s/M", deadline=9.0)  # type: ignore[arg-type]
    (start,) = call.begin(now=0.0)
    assert start.record.timeout == expected  # type: ignore[union-attr]
