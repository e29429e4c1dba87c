"""The schedule of a hedged call's attempts."""

import math
from typing import final

from meshlib._core.attempts.policy import HedgingPolicy
from meshlib._core.status import Outcome

__all__ = ["Hedges"]


@final
class Hedges:
    """The attempts of one hedged call beyond the first (gRFC A6).

    Args:
        policy: of the method.
    """

    __slots__ = ("_left", "_policy", "due", "why")

    def __init__(self, policy: HedgingPolicy) -> None:
        self._policy = policy
        self._left = policy.max_attempts - 1
        self.due = math.inf
        """Monotonic second at which the next one is sent; infinite: none is."""
        self.why = f"all {policy.max_attempts} hedged attempts failed"
        """Why none follows, once all have failed."""

    def sent(self, *, now: float) -> None:
        """Schedule the next attempt after the delay: one was sent."""
        self.due = now + self._policy.hedging_delay if self._left else math.inf

    def take(self) -> None:
        """Count the next attempt: it is being sent."""
        self._left -= 1
        self.due = math.inf

    def stop(self, why: str) -> None:
        """Stop sending further attempts."""
        self._left = 0
        self.due = math.inf
        self.why = why

    def failed(self, outcome: Outcome, *, now: float) -> bool:
        """Record a failure; return whether the others may still succeed. :attr:`due` is the time of the next.

        "If any hedge receives a non-fatal status, the next is sent immediately", unless the server pushes back: then
        after that delay, or never if it forbids it.
        """
        if outcome.code not in self._policy.non_fatal_status_codes:
            return False
        pushback = outcome.pushback
        if pushback is not None and pushback < 0:
            self.stop("server pushback forbids further hedges")
        elif self._left:
            self.due = now + (pushback or 0.0)
        return True
