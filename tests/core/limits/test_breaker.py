"""The circuit breaker through the machines of cluster and call, including Envoy's own cases."""

import pytest
from tests.core.channels import Channel
from tests.core.scripted import UNAVAILABLE, brief, ended

from meshlib._core.attempts.policy import RetryBudget, RetryPolicy
from meshlib._core.balancing.contracts import Host, Picker, PickInfo
from meshlib._core.connectivity import CONNECTING, READY
from meshlib._core.errors import ConfigError
from meshlib._core.events import Broken, Refusing
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.status import OK


def test_requests_beyond_the_limit_are_refused_at_once() -> None:
    """Envoy case: max_requests 2, 6 at once, retries on: 2 OK, 4 UNAVAILABLE, none retried, no host charged."""
    channel = Channel.of("a", circuit_breaker=CircuitBreaker(max_requests=2))
    calls = [channel.call(RetryPolicy(), observer=channel.ear) for _ in range(6)]
    answers = [call.begin(now=0.0) for call in calls]
    assert [brief(answer) for answer in answers] == [["start 1 a first"]] * 2 + [["finish 0 UNAVAILABLE"]] * 4
    outcome = ended(answers[2])
    assert outcome.local
    assert not outcome.sent
    assert outcome.details == "circuit breaker open: max_requests=2"
    assert channel.cluster.breaker.refused == 4
    assert channel.host("a").failures == 0
    assert [event.why for event in channel.ear.calls if isinstance(event, Broken)] == [outcome.details] * 4
    for call in calls[:2]:
        assert brief(call.on_outcome(1, OK, now=1.0)) == ["finish 1 OK"]
    assert brief(channel.call().begin(now=2.0)) == ["start 1 a first"]


def test_calls_that_wait_beyond_the_limit_are_refused() -> None:
    """No host is connected yet: one call may wait, the next may not, with or without wait_for_ready."""
    channel = Channel(circuit_breaker=CircuitBreaker(max_pending_requests=1))
    channel.resolve("a", now=0.0)
    first = channel.call()
    assert first.begin(now=0.0) == ()
    for wait_for_ready in (False, True):
        outcome = ended(channel.call(wait_for_ready=wait_for_ready).begin(now=0.0))
        assert outcome.details == "circuit breaker open: max_pending_requests=1"
    first.on_cancel(UNAVAILABLE, now=1.0)
    assert channel.call().begin(now=1.0) == ()


def test_a_call_that_was_woken_may_wait_again() -> None:
    """It releases its own slot first."""

    class Never(Picker):
        def pick(self, call: PickInfo, *, now: float) -> Host | None:
            return None

    class Nobody:
        def picker(self, hosts: object, *, rng: object) -> Picker:
            return Never()

    channel = Channel.of("a", balancer=Nobody(), circuit_breaker=CircuitBreaker(max_pending_requests=1))  # type: ignore[arg-type]
    call = channel.call()
    assert call.begin(now=0.0) == ()
    assert call.on_endpoints(now=1.0) == ()
    assert channel.cluster.waiting == 1


def test_retries_beyond_the_limit() -> None:
    """Envoy case: max_retries 3, 20 calls that fail at once: 3 are retried, 17 are not."""
    channel = Channel.of("a", circuit_breaker=CircuitBreaker(max_retries=3))
    calls = [channel.call(RetryPolicy(max_attempts=2)) for _ in range(20)]
    for call in calls:
        call.begin(now=0.0)
    answers = [call.on_outcome(1, UNAVAILABLE, now=1.0) for call in calls]
    assert sum(answer == () for answer in answers) == 3
    finals = [call for call, answer in zip(calls, answers, strict=True) if answer]
    assert {call.verdict for call in finals} == {"circuit breaker open: max_retries reached"}
    assert len(finals) == channel.cluster.retries.refused == 17


@pytest.mark.parametrize("budget", [RetryBudget(budget_percent=0, min_retry_concurrency=1), None])
def test_budget_and_limit_both_hold(budget: RetryBudget | None) -> None:
    """In Envoy a budget replaces the limit; here the lower one counts."""
    channel = Channel.of("a", budget=budget, circuit_breaker=CircuitBreaker(max_retries=2))
    calls = [channel.call(RetryPolicy(max_attempts=2)) for _ in range(4)]
    for call in calls:
        call.begin(now=0.0)
    for call in calls:
        call.on_outcome(1, UNAVAILABLE, now=1.0)
    assert channel.cluster.budget.held == (2 if budget is None else 1)


def test_a_retry_that_is_refused_ends_with_what_the_server_said() -> None:
    """The request limit applies to each attempt; the error is the last server's, and says why no attempt followed."""
    channel = Channel.of("a", circuit_breaker=CircuitBreaker(max_requests=1))
    call = channel.call(RetryPolicy())
    call.begin(now=0.0)
    assert call.on_outcome(1, UNAVAILABLE, now=1.0) == ()
    other = channel.call()
    other.begin(now=1.0)
    timer = call.next_timer()
    assert timer is not None
    outcome = ended(call.on_timer(now=timer))
    assert outcome is UNAVAILABLE
    assert "max_requests=1" in call.verdict
    assert channel.cluster.budget.held == 0


def test_refusals_are_told_at_most_every_ten_seconds() -> None:
    """The first is reported at once, then the count since; separately for each limit."""
    channel = Channel.of("a", circuit_breaker=CircuitBreaker(max_requests=0, max_retries=0))
    for now in (0.0, 1.0, 9.9, 10.0, 11.0):
        channel.call().begin(now=now)
    channel.step(now=12.0)
    told = [(event.at, event.refused) for event in channel.ear.heard(Refusing)]
    assert told == [(0.0, 1), (10.0, 4)]
    assert channel.cluster.breaker.refused == 5


def test_refused_retries_are_told_of_too() -> None:
    """Rejected retries are counted by reason; retries made are counted as well."""
    channel = Channel.of("a", "b", circuit_breaker=CircuitBreaker(max_retries=1))
    calls = [channel.call(RetryPolicy()) for _ in range(3)]
    for call in calls:
        call.begin(now=0.0)
    for call in calls:
        call.on_outcome(1, UNAVAILABLE, now=1.0)
    channel.step(now=1.0)
    (event,) = channel.ear.heard(Refusing)
    assert event.why == "circuit breaker open: max_retries reached"
    assert (channel.cluster.budget.granted, channel.cluster.retries.refused) == (1, 2)


def test_a_limit_of_nothing_refuses_everything() -> None:
    """Zero is a limit like any other."""
    channel = Channel.of("a", circuit_breaker=CircuitBreaker(max_requests=0))
    assert ended(channel.call().begin(now=0.0)).local
    assert channel.cluster.in_flight == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_requests", -1), ("max_requests", 1.5), ("max_pending_requests", None), ("max_retries", "3")],
)
def test_what_is_refused(field: str, value: object) -> None:
    """The error has the field and the value."""
    with pytest.raises(ConfigError) as error:
        CircuitBreaker(**{field: value})  # type: ignore[arg-type]
    assert (error.value.field, error.value.value) == (field, value)


def test_a_call_that_was_woken_in_vain_is_not_refused_for_those_that_came_meanwhile() -> None:
    """It waited before the others, and waits on despite the limit."""
    channel = Channel(circuit_breaker=CircuitBreaker(max_pending_requests=1))
    channel.resolve("a", now=0.0)
    older, newer = channel.call(), channel.call()
    assert older.begin(now=0.0) == ()
    channel.put("a", READY, now=1.0)
    channel.put("a", CONNECTING, now=1.0)
    assert channel.woken == [older]
    assert newer.begin(now=1.0) == ()
    assert older.on_endpoints(now=1.0) == ()
    assert channel.cluster.waiting == 2
    assert ended(channel.call().begin(now=1.0)).local
