"""Connections lost and restored between polls: detected from the attempts that they ended."""

import pytest
from tests.core.channels import Channel
from tests.core.scripted import brief, host

from meshlib._core.attempts.policy import RetryBudget, RetryPolicy
from meshlib._core.call import Call
from meshlib._core.connectivity import READY, TRANSIENT_FAILURE
from meshlib._core.health.losses import BURST, LONE, believed
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.status import OK, Outcome

BROKEN = Outcome("UNAVAILABLE", "Socket closed", answered=False)
BUSY = Outcome("UNAVAILABLE", "too busy")
NO_BUDGET = RetryBudget(budget_percent=0, min_retry_concurrency=0)
RETRY = RetryPolicy(max_attempts=2)


def fly(channel: Channel, count: int, *, now: float) -> list[Call]:
    """``count`` calls, each with an attempt in flight."""
    calls = [channel.call(RETRY) for _ in range(count)]
    for call in calls:
        assert brief(call.begin(now=now))[0].startswith("start 1")
    return calls


def goes_ahead(call: Call, *, now: float) -> bool:
    """Whether a retry of ``call`` beyond the budget is made, once its back-off and all polls are over."""
    commands = ()
    while not commands:
        timer = call.next_timer()
        assert timer is not None
        commands = call.on_timer(now=max(now, timer))
    return brief(commands)[0].startswith("start 2")


@pytest.mark.parametrize("detection", [None, OutlierDetection()])
def test_a_connection_that_is_back_at_once(detection: OutlierDetection | None) -> None:
    """All attempts on it end; all are retried beyond the budget, with one re-resolution."""
    channel = Channel.of("a", budget=NO_BUDGET, outlier_detection=detection)
    calls = fly(channel, 10, now=1.0)
    for call in calls:
        assert call.on_outcome(1, BROKEN, now=2.0) == ()
    channel.step(now=2.0)
    assert channel.lookups == 1
    assert all(goes_ahead(call, now=2.1) for call in calls)
    channel.step(now=2.2)
    assert channel.lookups == 1


def test_one_call_alone() -> None:
    """It was the only call on the connection."""
    channel = Channel.of("a", budget=NO_BUDGET)
    (call,) = fly(channel, 1, now=1.0)
    call.on_outcome(1, BROKEN, now=2.0)
    channel.step(now=2.0)
    assert channel.lookups == 1
    assert goes_ahead(call, now=2.1)


def test_attempts_that_c_core_sends_again_by_itself() -> None:
    """Most attempts in flight were not written yet, and continue: the few that ended prove the loss."""
    channel = Channel.of("a", budget=NO_BUDGET)
    calls = fly(channel, 10, now=1.0)
    for call in calls[:3]:
        call.on_outcome(1, BROKEN, now=2.0)
    assert all(goes_ahead(call, now=2.1) for call in calls[:3])
    channel.step(now=2.2)
    assert channel.lookups == 1


def test_a_server_that_passes_on_the_words() -> None:
    """One of several calls fails repeatedly with these details: after some retries the budget applies."""
    channel = Channel.of("a", budget=NO_BUDGET)
    fly(channel, 5, now=0.0)
    made = 0
    for n in range(int(3 * BURST)):
        now = 1.0 + n / 100
        (call,) = fly(channel, 1, now=now)
        call.on_outcome(1, BROKEN, now=now + 0.001)
        made += goes_ahead(call, now=now + 0.002)
    assert BURST <= made <= BURST + 1


def test_a_server_that_passes_them_on_for_one_call_at_a_time() -> None:
    """A single attempt is a majority on its host, but not twice within a second."""
    channel = Channel.of("a", budget=NO_BUDGET)
    made = 0
    for n in range(int(3 * BURST)):
        now = 1.0 + n / 100
        (call,) = fly(channel, 1, now=now)
        call.on_outcome(1, BROKEN, now=now + 0.001)
        made += goes_ahead(call, now=now + 0.002)
    assert made <= BURST + 2
    later = 10 * LONE
    (call,) = fly(channel, 1, now=later)
    call.on_outcome(1, BROKEN, now=later)
    assert goes_ahead(call, now=later)


def test_a_server_that_says_it_is_busy_is_not_lost() -> None:
    """A server's own details prove nothing about the connection, even while other attempts break."""
    channel = Channel.of("a", budget=NO_BUDGET)
    busy, broken = fly(channel, 2, now=1.0)
    busy.on_outcome(1, BUSY, now=1.5)
    broken.on_outcome(1, Outcome("UNAVAILABLE", "refused", refused=True), now=1.6)
    assert not goes_ahead(busy, now=1.7)
    assert channel.host("a").lost_at < 0


def test_a_loss_that_a_look_finds_afterwards_is_the_same() -> None:
    """It causes no second re-resolution."""
    channel = Channel.of("a", "b")
    calls = fly(channel, 10, now=1.0)
    for call in calls:
        call.on_outcome(1, BROKEN if call.attempts[0].host.endpoint.address == "a" else OK, now=2.0)
    channel.step(now=2.0)
    channel.put("a", TRANSIENT_FAILURE, now=2.01)
    assert channel.lookups == 1
    channel.put("a", READY, now=5.0)
    channel.put("a", TRANSIENT_FAILURE, now=6.0)
    assert channel.lookups == 2


def test_an_attempt_sent_after_the_last_loss_proves_nothing() -> None:
    """Only attempts that a reported loss may have ended are believed."""
    entry = host("a")
    entry.record.broke_at = 1.0
    assert not believed(entry, 1.5, 2.0)
    assert entry.lost_at < 0
    assert believed(entry, 0.5, 2.0)
    assert entry.lost_at == 1.0
