"""Retry throttling by gRFC A6: the tokens against exact fractions, and the calls that take them."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.calls import A, B
from tests.core.scripted import UNAVAILABLE, ScriptedCluster, brief, ended, plan

from meshlib._core.attempts.policy import HedgingPolicy, RetryPolicy, RetryThrottling
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.call import Call
from meshlib._core.errors import ConfigError
from meshlib._core.hedged import HedgedCall
from meshlib._core.status import OK, Outcome

TOKENS = "must be a whole number from 1 to 1000"
RATIO = "must be a number from 0.001 to 1000"


def throttle(max_tokens: int, token_ratio: float) -> Throttle:
    """A throttle with all tokens."""
    return Throttle(RetryThrottling(max_tokens=max_tokens, token_ratio=token_ratio))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_tokens", 0, TOKENS),
        ("max_tokens", -2, TOKENS),
        ("max_tokens", 1001, TOKENS),
        ("max_tokens", 10.0, TOKENS),
        ("max_tokens", True, TOKENS),
        ("token_ratio", 0, RATIO),
        ("token_ratio", -1, RATIO),
        ("token_ratio", 0.0009, RATIO),
        ("token_ratio", 1001, RATIO),
        ("token_ratio", math.inf, RATIO),
        ("token_ratio", math.nan, RATIO),
        ("token_ratio", "0.1", RATIO),
        ("token_ratio", True, RATIO),
    ],
)
def test_what_is_refused(field: str, value: object, allowed: str) -> None:
    """The error has the field, the value and the allowed form."""
    given: dict[str, Any] = {"max_tokens": 10, "token_ratio": 0.1, field: value}
    with pytest.raises(ConfigError) as caught:
        RetryThrottling(**given)
    assert str(caught.value) == f"{field}={value!r}: {allowed}"


def test_basic() -> None:
    """C-core's ``Basic``: 4 tokens, 1.6 a success; retries while more than 2 are left."""
    four = throttle(4, 1.6)
    seen = []
    for result in "FSFFFFFSSFFSFSF":
        four.failed() if result == "F" else four.succeeded()
        seen.append((four.tokens, four.allows))
    assert seen == [
        (3.0, True),
        (4.0, True),
        (3.0, True),
        (2.0, False),
        (1.0, False),
        (0.0, False),
        (0.0, False),
        (1.6, False),
        (3.2, True),
        (2.2, True),
        (1.2, False),
        (2.8, True),
        (1.8, False),
        (3.4, True),
        (2.4, True),
    ]


def test_more_than_half() -> None:
    """The threshold itself is too few; half of an odd number is not whole."""
    for most in range(1, 1001):
        made = throttle(most, 0.001)
        allowed = 0
        while made.allows:
            made.failed()
            allowed += 1
        assert allowed == math.ceil(most / 2)
        made.succeeded()
        assert made.allows == (most % 2 == 0)


@pytest.mark.parametrize(
    ("ratio", "tokens"),
    [(0.1, 0.1), (0.29, 0.29), (1.001, 1.001), (4.35, 4.35), (0.0019999, 0.001), (0.57, 0.57), (1, 1), (3, 3.0)],
)
def test_three_decimals(ratio: float, tokens: float) -> None:
    """Three decimals as written, whatever the binary fraction; a whole ratio is that many tokens, not thousandths."""
    made = throttle(10, ratio)
    for _ in range(10):
        made.failed()
    made.succeeded()
    assert made.tokens == tokens


def test_every_thousandth_is_exact() -> None:
    """No thousandth is lost by conversion from a float."""
    for thousandths in range(1, 10_001):
        made = throttle(1000, thousandths / 1000)
        for _ in range(20):
            made.failed()
        made.succeeded()
        assert made.tokens == (980_000 + thousandths) / 1000


def test_no_policy_is_no_limit() -> None:
    """``None`` means off."""
    made = Throttle(None)
    for _ in range(1000):
        made.failed()
    assert (made.allows, made.tokens, repr(made)) == (True, math.inf, "<Throttle off>")
    made.succeeded()
    assert made.allows


def test_its_repr() -> None:
    """The repr has the remaining tokens and the result."""
    made = throttle(10, 0.1)
    assert repr(made) == "<Throttle 10 of 10 tokens>"
    for _ in range(6):
        made.failed()
    made.succeeded()
    assert repr(made) == "<Throttle 4.1 of 10 tokens, no retries>"


class ThrottleMachine(RuleBasedStateMachine):
    """A throttle against A6's sentences, computed in fractions."""

    @initialize(most=st.integers(1, 1000), ratio=st.integers(1, 1_000_000), beyond=st.integers(0, 9))
    def open(self, most: int, ratio: int, beyond: int) -> None:
        self.most = most
        self.ratio = Fraction(ratio, 1000)
        # A fourth decimal, if the limit and the float's precision allow one.
        written = f"{ratio / 1000:.3f}{beyond if ratio < 1_000_000 else 0}"
        self.throttle = throttle(most, float(written))
        self.tokens = Fraction(most)

    @rule(times=st.integers(1, 300))
    def fail(self, times: int) -> None:
        for _ in range(times):
            self.throttle.failed()
            self.tokens = max(Fraction(0), self.tokens - 1)

    @rule(times=st.integers(1, 300))
    def succeed(self, times: int) -> None:
        for _ in range(times):
            self.throttle.succeeded()
            self.tokens = min(Fraction(self.most), self.tokens + self.ratio)

    @invariant()
    def it_agrees(self) -> None:
        assert self.throttle.tokens == float(self.tokens)
        assert self.throttle.allows == (self.tokens > Fraction(self.most, 2))


TestThrottle = ThrottleMachine.TestCase


# --- calls -------------------------------------------------------------------------


def test_retry_throttled() -> None:
    """C-core: retry_throttled. 2 tokens: the first failure leaves 1, which is not more than half: no retry."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=2, token_ratio=0.5))
    call = Call(cluster, plan(RetryPolicy()), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert ended(call.on_outcome(1, UNAVAILABLE, now=1.0)) is UNAVAILABLE
    assert "retryThrottling" in call.verdict
    assert cluster.refusals == 1


def test_throttling_counts_what_might_be_retried() -> None:
    """Retryable statuses, also on the last attempt, and pushbacks that forbid a retry; no other failure."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=10, token_ratio=0.5))
    throttle = cluster.throttle
    assert throttle is not None

    def after(outcome: Outcome, policy: RetryPolicy | None = None) -> float:
        call = Call(cluster, plan(policy or RetryPolicy(max_attempts=2)), "/s/M")  # type: ignore[arg-type]
        call.begin(now=0.0)
        call.on_outcome(1, outcome, now=0.0)
        call.on_cancel(UNAVAILABLE, now=0.0)
        return throttle.tokens

    assert after(Outcome("NOT_FOUND")) == 10
    assert after(UNAVAILABLE) == 9
    assert after(Outcome("NOT_FOUND", pushback=-1.0)) == 8
    assert after(Outcome("UNAVAILABLE", refused=True)) == 8  # a transparent retry does not count
    assert after(OK) == 8.5


def test_a_throttled_call_succeeds_as_any_other() -> None:
    """Only retries are throttled, and successes add tokens."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=2, token_ratio=1.0))
    for expected in ("finish", "finish", "start"):
        call = Call(cluster, plan(RetryPolicy()), "/s/M")  # type: ignore[arg-type]
        assert brief(call.begin(now=0.0)) == ["start 1 a first"]
        if expected == "start":
            assert brief(call.on_outcome(1, OK, now=0.1)) == ["finish 1 OK"]
        else:
            assert brief(call.on_outcome(1, UNAVAILABLE, now=0.1)) == ["finish 1 UNAVAILABLE"]
    assert cluster.throttle is not None
    assert cluster.throttle.tokens == 1


def test_hedging_throttled_by_tokens() -> None:
    """Java: hedging_throttledByOtherCall. No copies while tokens are short; the original continues."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=2, token_ratio=0.5))
    assert cluster.throttle is not None
    cluster.throttle.failed()
    call = HedgedCall(cluster, plan(HedgingPolicy(hedging_delay=1.0)), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert call.on_timer(now=1.0) == ()
    assert brief(call.on_outcome(1, OK, now=2.0)) == ["finish 1 OK"]


def test_a_fatal_failure_of_a_copy_takes_no_token() -> None:
    """ "retryable or non-fatal": gRFC A6."""
    cluster = ScriptedCluster(A, B, throttling=RetryThrottling(max_tokens=10, token_ratio=0.5))
    call = HedgedCall(cluster, plan(HedgingPolicy(hedging_delay=1.0)), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    call.on_timer(now=1.0)
    call.on_outcome(1, UNAVAILABLE, now=1.5)
    assert cluster.throttle is not None
    assert cluster.throttle.tokens == 9
    call.on_outcome(2, Outcome("NOT_FOUND"), now=2.0)
    assert cluster.throttle.tokens == 9


def test_the_hedge_after_the_only_copy_failed_is_held_back_too() -> None:
    """Nothing is retried or hedged while tokens are short: gRFC A6."""
    cluster = ScriptedCluster(A, B, throttling=RetryThrottling(max_tokens=2, token_ratio=0.5))
    call = HedgedCall(cluster, plan(HedgingPolicy(hedging_delay=1.0)), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert brief(call.on_outcome(1, UNAVAILABLE, now=0.5)) == ["finish 1 UNAVAILABLE"]
    assert "retryThrottling" in call.verdict
