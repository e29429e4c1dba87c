"""Retry throttling by gRFC A6, against exact fractions."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.errors import ConfigError

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
    for ended in "FSFFFFFSSFFSFSF":
        four.failed() if ended == "F" else four.succeeded()
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
