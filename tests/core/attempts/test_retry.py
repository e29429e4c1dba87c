"""Whether and when a failure is retried: Envoy's back-off, the server's metadata, and tenacity's strategies without its
clock."""

import math
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from tests.core.calls import A
from tests.core.scripted import UNAVAILABLE, Draws, host

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.policy import RetryPolicy
from meshlib._core.attempts.retry import AttemptState, Retries, backoff, reset_after, timed_out
from meshlib._core.errors import ConfigError
from meshlib._core.events import ChannelEvent, PluginFailed
from meshlib._core.status import Outcome


def attempt(*, timeout: float | None = None, start: float = 0.0) -> AttemptRecord:
    """An attempt of an arbitrary call."""
    return AttemptRecord(1, host("a"), timeout, start)


def judge(policy: RetryPolicy, outcome: Outcome = UNAVAILABLE, *, count: int = 1, elapsed: float = 0.0) -> float | str:
    """The decision after the first failure of a call."""
    return Retries(policy, Draws(0.5), lambda _: None).decide(
        attempt(), outcome, count=count, elapsed=elapsed, now=elapsed
    )


# --- back-off ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "most", "random", "delays"),
    [
        (25, 250, 190, [15, 40, 90, 190, 190]),
        (5, 100, 9999, [4, 9, 19, 39, 79, 99, 99]),
        (25, 30, 27, [2, 27]),
    ],
)
def test_the_bounds_are_envoys(base: int, most: int, random: int, delays: list[int]) -> None:
    """Envoy draws ``random() % bound`` milliseconds; its bounds give its own tables."""
    policy = RetryPolicy(initial_backoff=base / 1000, max_backoff=most / 1000)
    bounds = [round(backoff(policy, retry, rng=Draws(1.0)) * 1000) for retry in range(1, len(delays) + 1)]
    assert [random % bound for bound in bounds] == delays


@given(st.integers(1, 10_000), st.floats(1, 1000), st.integers(0, 2**32))
def test_a_back_off_is_below_its_bound(retry: int, multiplier: float, seed: int) -> None:
    """Never negative, never above ``max_backoff``, for any number of retries that a ``stop=`` allows."""
    policy = RetryPolicy(initial_backoff=0.01, max_backoff=3.0, backoff_multiplier=multiplier)
    assert 0.0 <= backoff(policy, retry, rng=Random(seed)) <= 3.0


def test_full_jitter(rng: Random) -> None:
    """Draws are even over the whole range below the bound."""
    policy = RetryPolicy(initial_backoff=1.0, max_backoff=1.0)
    draws = [backoff(policy, 1, rng=rng) for _ in range(4000)]
    assert min(draws) < 0.01
    assert max(draws) > 0.99
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.03)


# --- the policy ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "outcome", "count", "answer"),
    [
        (RetryPolicy(), UNAVAILABLE, 1, 0.0125),
        (RetryPolicy(), UNAVAILABLE, 3, "all 3 attempts were used"),
        (RetryPolicy(), Outcome("UNAVAILABLE", pushback=1.5), 1, 1.5),
        (RetryPolicy(), Outcome("UNAVAILABLE", pushback=1.5), 3, "all 3 attempts were used"),
        (RetryPolicy(), Outcome("UNAVAILABLE", pushback=-1.0), 1, "server pushback forbids a retry"),
        (RetryPolicy(), Outcome("ABORTED", pushback=1.5), 1, "ABORTED is not retried"),
        (RetryPolicy(retryable_status_codes={"ABORTED"}), Outcome("ABORTED"), 1, 0.0125),  # type: ignore[arg-type]
        (RetryPolicy(unsent_only=True), UNAVAILABLE, 1, "the attempt may have reached a server, and unsent_only=True"),
        (RetryPolicy(unsent_only=True), Outcome("UNAVAILABLE", refused=True), 1, 0.0125),
    ],
)
def test_what_the_policy_says(policy: RetryPolicy, outcome: Outcome, count: int, answer: object) -> None:
    """A delay in seconds, or a reason in words."""
    assert judge(policy, outcome, count=count) == answer


@pytest.mark.parametrize(
    ("code", "limit", "timeout", "seconds", "answer"),
    [
        ("DEADLINE_EXCEEDED", 1.0, 1.0, 1.0, True),
        ("DEADLINE_EXCEEDED", 1.0, 1.0, 0.9951, True),
        ("DEADLINE_EXCEEDED", 1.0, 1.0, 0.99, False),
        ("DEADLINE_EXCEEDED", 1.0, 0.999, 1.0, False),
        ("DEADLINE_EXCEEDED", None, None, 1.0, False),
        ("CANCELLED", 1.0, 1.0, 1.0, False),
    ],
)
def test_timed_out(code: str, limit: float | None, timeout: float | None, seconds: float, answer: bool) -> None:
    """Only a timeout of ``per_attempt_timeout`` by our own clock, within the rounding of grpc's clock."""
    policy = RetryPolicy(per_attempt_timeout=limit)
    assert timed_out(policy, attempt(timeout=timeout, start=5.0), Outcome(code), now=5.0 + seconds) is answer


# --- tenacity ------------------------------------------------------------------------


def grpc_error() -> Exception:
    """An exception with a code."""
    error = ConnectionError("gone")
    error.code = lambda: SimpleNamespace(name="UNAVAILABLE")  # type: ignore[attr-defined]
    return error


FAILED = Outcome("UNAVAILABLE", error=grpc_error())


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        (tenacity.wait_fixed(2), 2.0),
        (tenacity.wait_none(), 0.0),
        (tenacity.wait_incrementing(start=1, increment=5), 1.0),
        (tenacity.wait_exponential(multiplier=3), 3.0),
        (tenacity.wait_chain(tenacity.wait_fixed(7), tenacity.wait_fixed(9)), 7.0),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), 3.0),
        (tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_fixed(4)), 5.0),
        (lambda state: state.attempt_number * 10, 10.0),
        (lambda _: -5, 0.0),
    ],
)
def test_tenacity_waits(wait: Callable[[Any], float], seconds: float) -> None:
    """Any wait of tenacity's, or a function of its state, determines the back-off."""
    assert judge(RetryPolicy(wait=wait), FAILED) == seconds


@pytest.mark.parametrize(
    ("stop", "goes_on"),
    [
        (tenacity.stop_never, True),
        (tenacity.stop_after_attempt(1), False),
        (tenacity.stop_after_attempt(2), True),
        (tenacity.stop_after_delay(5), False),
        (tenacity.stop_after_delay(6), True),
        (tenacity.stop_before_delay(5.01), False),
        (tenacity.stop_before_delay(5.1), True),
        (tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(1), False),
        (tenacity.stop_after_attempt(3) & tenacity.stop_after_delay(1), True),
    ],
)
def test_tenacity_stops(stop: Callable[[Any], bool], goes_on: bool) -> None:
    """Any stop of tenacity's replaces ``max_attempts``; its state has the next wait."""
    answer = judge(RetryPolicy(stop=stop), FAILED, elapsed=5.0)
    assert answer == (0.0125 if goes_on else "the stop condition (stop=) was met")


@pytest.mark.parametrize(
    ("when", "goes_on"),
    [
        (tenacity.retry_if_exception_type(ConnectionError), True),
        (tenacity.retry_if_exception_type(KeyError), False),
        (tenacity.retry_if_not_exception_type(KeyError), True),
        (tenacity.retry_unless_exception_type(ConnectionError), False),
        (tenacity.retry_if_exception(lambda error: error.code().name == "UNAVAILABLE"), True),  # type: ignore[attr-defined]
        (tenacity.retry_if_exception_message(match="gone"), True),
        (tenacity.retry_if_result(lambda _: True), False),
        (tenacity.retry_any(tenacity.retry_never, tenacity.retry_always), True),
        (tenacity.retry_all(tenacity.retry_never, tenacity.retry_always), False),
    ],
)
def test_tenacity_conditions(when: Callable[[Any], bool], goes_on: bool) -> None:
    """Any retry condition of tenacity's replaces the codes; it gets the error that the caller would get."""
    answer = judge(RetryPolicy(when=when), FAILED)
    assert answer == (0.0125 if goes_on else "the retry condition (when=) was not met")


def test_a_state_tells_what_tenacitys_does() -> None:
    """Attempts, seconds since the start, seconds idled, the wait to come, the outcome."""
    seen: list[AttemptState] = []
    policy = RetryPolicy(stop=lambda state: bool(seen.append(state)), wait=lambda _: 2.0)  # type: ignore[func-returns-value]
    retries = Retries(policy, Draws(0.5), lambda _: None)
    for count in (1, 2, 3):
        retries.decide(attempt(), FAILED, count=count, elapsed=count * 10.0, now=0.0)
    assert [state.attempt_number for state in seen] == [1, 2, 3]
    assert [state.seconds_since_start for state in seen] == [10.0, 20.0, 30.0]
    assert [state.idle_for for state in seen] == [0.0, 2.0, 4.0]
    assert [state.upcoming_sleep for state in seen] == [2.0, 2.0, 2.0]
    assert seen[0].outcome.failed
    with pytest.raises(ConnectionError, match="gone"):
        seen[0].outcome.result()


def raises(_: object) -> Any:
    """A strategy that raises."""
    raise LookupError("no idea")


DEFAULT = "the default backoff is used"


@pytest.mark.parametrize(
    ("field", "strategy", "answer", "error", "instead"),
    [
        ("wait", raises, 0.0125, "no idea", DEFAULT),
        ("wait", lambda _: None, 0.0125, "returned None, not a number of seconds", DEFAULT),
        ("wait", lambda _: math.nan, 0.0125, "returned nan, not a number of seconds", DEFAULT),
        ("wait", lambda _: math.inf, 0.0125, "returned inf, not a number of seconds", DEFAULT),
        ("stop", raises, "the stop condition (stop=) was met", "no idea", "the call is not retried"),
        ("when", raises, "the retry condition (when=) was not met", "no idea", "the call is not retried"),
    ],
)
def test_a_strategy_that_fails(field: str, strategy: Any, answer: object, error: str, instead: str) -> None:
    """The error is reported and does not fail the call: the default wait is used, and a failed condition means no
    retry."""
    told: list[ChannelEvent] = []
    retries = Retries(RetryPolicy(**{field: strategy}), Draws(0.5), told.append)
    assert retries.decide(attempt(), FAILED, count=1, elapsed=0.0, now=7.0) == answer
    (event,) = told
    assert isinstance(event, PluginFailed)
    assert (event.at, event.doing, str(event.error), event.instead) == (7.0, field, error, instead)
    assert event.name == "function"


# --- the server's metadata ---------------------------------------------------------


MARKED = Outcome("NOT_FOUND", "moved", metadata=(("x-state", "draining"),))


def decided(policy: RetryPolicy, outcome: Outcome, *, draws: float = 0.0) -> float | str:
    """The decision after the first failure."""
    retries = Retries(policy, Draws(draws), lambda _: None)
    attempt = AttemptRecord(1, A, None, 0.0)
    return retries.decide(attempt, outcome, count=1, elapsed=0.0, now=0.0)


@pytest.mark.parametrize(
    ("headers", "retried"),
    [(("x-state",), True), ((("x-state", "draining"),), True), ((("x-state", "up"),), False), (("x-other",), False)],
)
def test_a_failure_is_retried_for_its_metadata(headers: tuple[object, ...], retried: bool) -> None:
    """Envoy ``retriable_headers``: by name, or by name and value, whatever the code."""
    policy = RetryPolicy(retriable_headers=headers)  # type: ignore[arg-type]
    assert (decided(policy, MARKED) == 0.0) == retried


def test_metadata_does_not_outdo_a_pushback() -> None:
    """A server that forbids a retry is obeyed."""
    outcome = Outcome("NOT_FOUND", metadata=MARKED.metadata, pushback=-1.0)
    assert decided(RetryPolicy(retriable_headers=("x-state",)), outcome) == "server pushback forbids a retry"


@pytest.mark.parametrize(("draw", "delay"), [(22 / 250, 0.522), (249 / 250, 0.749), (0.0, 0.5)])
def test_the_server_says_when(draw: float, delay: float) -> None:
    """Envoy: LowerBoundBackOff. 500 ms: the draw of 22 gives 522, that of 9999 gives 749."""
    policy = RetryPolicy(reset_headers=(("x-reset", "unix_timestamp"),))
    outcome = Outcome("UNAVAILABLE", metadata=(("x-reset", "1000"),), at=999.5)
    assert decided(policy, outcome, draws=draw) == pytest.approx(delay)


@pytest.mark.parametrize(
    ("metadata", "at", "seconds"),
    [
        ((("retry-after", "7"),), 0.0, 7),
        ((("x-reset", "1005"),), 1000.0, 5.0),
        ((("x-reset", "1005"), ("retry-after", "7")), 1000.0, 7),  # in the order of the policy
        ((("retry-after", "301"),), 0.0, None),  # longer than max_reset_interval
        ((("retry-after", "0"),), 0.0, None),
        ((("x-reset", "999"),), 1000.0, None),  # already past
        ((("retry-after", "soon"), ("retry-after", "3")), 0.0, 3),
        ((("retry-after", b"7"),), 0.0, None),
        ((("retry-after", "9" * 400),), 0.0, None),
        ((), 0.0, None),
    ],
)
def test_what_a_reset_header_says(metadata: tuple[tuple[str, str]], at: float, seconds: float | None) -> None:
    """Whole seconds, or the second since 1970; unusable values are ignored."""
    policy = RetryPolicy(reset_headers=(("retry-after", "seconds"), ("x-reset", "unix_timestamp")))
    assert reset_after(policy, Outcome("UNAVAILABLE", metadata=metadata, at=at)) == seconds


def test_a_reset_is_for_one_retry() -> None:
    """The next failure without the header has the back-off it would have had anyway."""
    policy = RetryPolicy(initial_backoff=0.1, max_backoff=10.0, reset_headers=(("retry-after", "seconds"),))
    retries = Retries(policy, Draws(1.0), lambda _: None)
    attempt = AttemptRecord(1, A, None, 0.0)
    told = Outcome("UNAVAILABLE", metadata=(("retry-after", "2"),))
    assert retries.decide(attempt, told, count=1, elapsed=0.0, now=0.0) == 3.0
    assert retries.decide(attempt, UNAVAILABLE, count=2, elapsed=0.0, now=0.0) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("per_attempt_idle_timeout", 0),
        ("retriable_headers", "x-state"),
        ("retriable_headers", ("X-State",)),
        ("retriable_headers", (("x-state", 1),)),
        ("reset_headers", (("retry-after", "minutes"),)),
        ("reset_headers", ("retry-after",)),
        ("max_reset_interval", -1),
        ("host_selection_retry_max_attempts", -1),
    ],
)
def test_what_is_refused(field: str, value: object) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError) as error:
        RetryPolicy(**{field: value})  # type: ignore[arg-type]
    assert error.value.field == field


def test_the_back_off_begins_anew_after_a_pushback() -> None:
    """Envoy: backoff_strategy_test, reset; gRFC A6: "the sequence is reset". Base 5 ms: bounds 5, 10, then 5 again."""
    policy = RetryPolicy(max_attempts=9, initial_backoff=0.005, max_backoff=0.1)
    retries = Retries(policy, Draws(1.0), lambda _: None)
    attempt = AttemptRecord(1, A, None, 0.0)
    outcomes = [UNAVAILABLE, UNAVAILABLE, Outcome("UNAVAILABLE", pushback=0.7), UNAVAILABLE]
    waits = [retries.decide(attempt, outcome, count=1, elapsed=0.0, now=0.0) for outcome in outcomes]
    assert waits == pytest.approx([0.005, 0.01, 0.7, 0.005])
