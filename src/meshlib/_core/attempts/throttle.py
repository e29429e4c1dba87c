"""gRPC's retry throttling: retries only while enough attempts succeed."""

import math
from fractions import Fraction
from typing import Final, final

from meshlib._core.attempts.policy import RetryThrottling

__all__ = ["Throttle"]

TOKEN: Final = 1000
"""Tokens are counted in thousandths, which add up exactly: "Up to 3 decimal places are supported" (gRFC A6)."""


@final
class Throttle:
    """The tokens of one channel.

    The first attempt of a call is never throttled, and an attempt that grpc itself resent does not count.

    Args:
        policy: None: no limit.
    """

    __slots__ = ("_left", "_most", "_policy", "_ratio")

    def __init__(self, policy: RetryThrottling | None) -> None:
        self._policy = policy
        # Via text: the float 1.001 is a little less, and must not become a thousandth less.
        self._ratio = 0 if policy is None else int(Fraction(str(float(policy.token_ratio))) * TOKEN)
        self._most = 0 if policy is None else policy.max_tokens * TOKEN
        self._left = self._most

    @property
    def tokens(self) -> float:
        """Tokens left; infinite without a policy."""
        return math.inf if self._policy is None else self._left / TOKEN

    @property
    def allows(self) -> bool:
        """Whether a call may be retried or hedged now: "only if token_count is greater than the threshold"."""
        return self._policy is None or 2 * self._left > self._most

    def failed(self) -> None:
        """Record an attempt that failed with a retriable or non-fatal status, or with a pushback that forbids another.
        Other failures concern the request, not the server, and are not recorded."""
        left = self._left - TOKEN  # uninterrupted
        self._left = left if left > 0 else 0  # noqa: FURB136 # uninterrupted

    def succeeded(self) -> None:
        """Record an attempt that ended with OK."""
        left = self._left + self._ratio  # uninterrupted
        self._left = left if left < self._most else self._most  # noqa: FURB136 # uninterrupted

    def __repr__(self) -> str:
        if self._policy is None:
            return "<Throttle off>"
        return f"<Throttle {self.tokens:g} of {self._policy.max_tokens} tokens{'' if self.allows else ', no retries'}>"
