"""Admission of retries: the budget, the throttling and the circuit breaker of one channel together."""

import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.channels import Channel
from tests.core.scripted import UNAVAILABLE, brief

from meshlib._core.attempts.admission import Admission
from meshlib._core.attempts.budget import Budget
from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.connectivity import CONNECTING, IDLE, READY
from meshlib._core.events import ChannelEvent, Refusing
from meshlib._core.pending_calls import PendingCalls
from meshlib._core.policy import RetryBudget, RetryPolicy

# --- in a channel ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "least", "active", "allowed"),
    [(20.0, 3, 1, 3), (20.0, 3, 15, 3), (20.0, 3, 20, 4), (20.0, 3, 100, 20), (25.0, 3, 100, 25), (20.0, 5, 1, 5)],
)
def test_the_budget_is_of_the_calls_under_way(percent: float, least: int, active: int, allowed: int) -> None:
    """The budget counts calls in flight, waiting calls, and the asking call."""
    budget = RetryBudget(budget_percent=percent, min_retry_concurrency=least)
    channel = Channel.of("a", budget=budget)
    waiting = active // 3
    for _ in range(active - 1 - waiting):
        channel.call().begin(now=0.0)
    channel.put("a", CONNECTING, now=0.5)
    for _ in range(waiting):
        channel.call().begin(now=1.0)
    granted = [channel.cluster.retries.acquire(channel.call()) for _ in range(allowed + 3)]
    assert granted == [True] * allowed + [False] * 3


def test_twenty_parallel_failures() -> None:
    """If 20 calls fail together on connected hosts, 3 are retried and 17 exceed the budget, as in Envoy."""
    channel = Channel.of("a", "b", budget=RetryBudget(budget_percent=0.0))
    calls = [channel.call(RetryPolicy(max_attempts=2)) for _ in range(20)]
    for call in calls:
        call.begin(now=0.0)
    for call in calls:
        assert call.on_outcome(1, UNAVAILABLE, now=1.0) == ()
    commands = [command for call in calls for command in call.on_timer(now=2.0)]
    words = Counter(word.split()[0] for word in brief(commands))
    assert words == {"start": 3, "finish": 17}
    assert channel.cluster.retries.refused == 17


@pytest.mark.parametrize("how", ["idle now", "ready again", "removed"])
def test_calls_of_a_lost_host_are_retried_beyond_the_budget(how: str) -> None:
    """This holds if its connection is lost, came back within the back-off, or the resolver dropped the host."""
    channel = Channel.of("a", "b", budget=RetryBudget(budget_percent=0.0, min_retry_concurrency=0))
    call = channel.call(RetryPolicy())
    (start,) = call.begin(now=0.0)
    lost = start.record.host.endpoint.address  # type: ignore[union-attr]
    other = "b" if lost == "a" else "a"
    call.on_outcome(1, UNAVAILABLE, now=1.0)
    if how == "removed":
        channel.resolve(other, now=1.001)
    else:
        channel.put(lost, IDLE, now=1.001)
    if how == "ready again":
        channel.put(lost, READY, now=1.002)
    assert brief(call.on_timer(now=2.0)) == [f"start 2 {other} retry"]


# --- on its own --------------------------------------------------------------------


@dataclass(eq=False)
class Retry:
    """A call that backs off, and the slot that it may hold."""

    holds: bool = False
    wait_for_ready: bool = False
    waited: bool = False
    woken: bool = True

    def wake(self) -> None:
        raise AssertionError("admission wakes no call")


def admission(
    *, percent: float = 0.0, least: int = 2, most: float = math.inf, active: int = 0, throttle: Throttle | None = None
) -> tuple[Admission, PendingCalls, list[ChannelEvent]]:
    """Admission with its queue, and the events that it notes."""
    budget = Budget(RetryBudget(budget_percent=percent, min_retry_concurrency=least), most)
    waiting, noted = PendingCalls(), list[ChannelEvent]()
    return Admission(budget, throttle, waiting, active=lambda: active, note=noted.append), waiting, noted


def test_a_retry_needs_a_slot_of_both() -> None:
    """The budget rejects with False, the circuit breaker with None; a slot that is returned is taken by the next."""
    retries, _, _ = admission(least=1, most=1)
    first, second = Retry(), Retry()
    assert retries.acquire(first) is True
    assert (first.holds, retries.remaining) == (True, 0)
    assert retries.acquire(second) is None
    retries.release(first)
    assert (first.holds, retries.remaining) == (False, 1)
    assert retries.acquire(second) is True
    retries, _, _ = admission(least=0, most=1)
    assert retries.acquire(first) is False
    assert not first.holds


def test_the_asking_call_is_active_too() -> None:
    """Half of four calls, three active ones and the one to retry, is two slots."""
    retries, _, _ = admission(percent=50.0, least=0, active=3)
    assert retries.remaining == 1
    assert [retries.acquire(Retry()) for _ in range(3)] == [True, True, False]


def test_a_lost_host_goes_beyond_the_budget_but_not_beyond_the_breaker() -> None:
    """With ``force`` only the circuit breaker limits a retry."""
    retries, _, _ = admission(least=0, most=2)
    holders = [Retry() for _ in range(3)]
    assert [retries.force(holder) for holder in holders] == [True, True, False]
    assert [holder.holds for holder in holders] == [True, True, False]
    assert retries.acquire(Retry()) is None


@pytest.mark.parametrize(("least", "most", "registered"), [(1, 1, True), (0, 1, True), (1, 0, False)])
def test_a_call_that_backs_off_is_woken_by_the_close(least: int, most: int, registered: bool) -> None:
    """It is registered unless the circuit breaker ends it at once, and before its slot is taken."""
    retries, waiting, _ = admission(least=least, most=most)
    call = Retry()
    retries.acquire(call, call)
    assert (list(waiting.resting), call.woken) == (([call], False) if registered else ([], True))
    assert waiting.calls == {}


@pytest.mark.parametrize(
    ("percent", "least", "most", "active", "held", "remaining"),
    [
        (20.0, 3, math.inf, 0, 0, 3),
        (20.0, 3, math.inf, 100, 5, 15),
        (20.0, 3, 4, 100, 1, 3),
        (20.0, 3, 4, 100, 4, 0),
        (0.0, 0, math.inf, 9, 2, 0),
    ],
)
def test_what_the_budget_would_allow_now(
    percent: float, least: int, most: float, active: int, held: int, remaining: int
) -> None:
    """The lesser limit, less the slots that are held; never negative."""
    retries, _, _ = admission(percent=percent, least=least, most=most, active=active)
    assert all(retries.force(Retry()) for _ in range(held))
    assert retries.remaining == remaining


def test_no_limit_remains_without_a_budget() -> None:
    """None, unless the circuit breaker has a limit."""
    for most, remaining in ((math.inf, None), (7, 7)):
        retries = Admission(Budget(None, most), None, PendingCalls(), active=lambda: 0, note=lambda _: None)
        assert retries.remaining == remaining


def test_rejections_are_counted_and_noted_at_a_limited_rate() -> None:
    """Each reason is noted at once and then every ten seconds, with its own count."""
    retries, _, noted = admission()
    assert [retries.refuse("budget", now=now) for now in (1.0, 2.0, 10.9, 11.0)] == ["budget"] * 4
    assert retries.refuse("throttled", now=11.0) == "throttled"
    assert noted == [
        Refusing(at=1.0, why="budget", refused=1),
        Refusing(at=11.0, why="budget", refused=4),
        Refusing(at=11.0, why="throttled", refused=1),
    ]
    assert retries.refused == 5


def test_without_throttling_nothing_is_throttled() -> None:
    """Failures take no tokens."""
    retries, _, _ = admission()
    assert not any(retries.throttled(ok=False) for _ in range(100))


def test_throttled_after_too_many_failures() -> None:
    """Of four tokens two are too few; successes add tokens until there are enough."""
    retries, _, _ = admission(throttle=Throttle(RetryThrottling(max_tokens=4, token_ratio=0.5)))
    assert [retries.throttled(ok=False) for _ in range(3)] == [False, True, True]
    assert [retries.throttled(ok=True) for _ in range(3)] == [True, True, False]


@given(
    least=st.integers(0, 4),
    most=st.integers(0, 6),
    active=st.integers(0, 20),
    steps=st.lists(st.tuples(st.sampled_from(["acquire", "force", "release"]), st.integers(0, 5)), max_size=40),
)
def test_slots_are_those_of_the_holders(least: int, most: int, active: int, steps: list[tuple[str, int]]) -> None:
    """In any order of requests no limit is exceeded, and each holder has one slot."""
    retries, _, _ = admission(percent=20.0, least=least, most=most, active=active)
    holders = [Retry() for _ in range(6)]
    limit = min(max(20 * (active + 1) // 100, least), most)
    for step, n in steps:
        holder, held = holders[n], sum(each.holds for each in holders)
        if step == "release":
            if holder.holds:
                retries.release(holder)
        elif not holder.holds and step == "force":
            assert retries.force(holder) == (held < most)
        elif not holder.holds:
            assert retries.acquire(holder) == (None if held >= most else held < limit)
        held = sum(each.holds for each in holders)
        assert held <= most
        assert retries.remaining == max(0, min(max(20 * active // 100, least), most) - held)
