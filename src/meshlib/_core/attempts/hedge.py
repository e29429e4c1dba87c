"""When the next copy of a hedged call is due."""

import math
from typing import final

from meshlib._core.attempts.policy import HedgingPolicy
from meshlib._core.status import Outcome

__all__ = ["Hedges"]


@final
class Hedges:
    """The copies of one call beyond the first (gRFC A6).

    Args:
        policy: the method's.
    """

    __slots__ = ("_left", "_policy", "due", "why")

    def __init__(self, policy: HedgingPolicy) -> None:
        self._policy = policy
        self._left = policy.max_attempts - 1
        self.due = math.inf
        """Monotonic second at which the next copy is to be sent; infinite: none is."""
        self.why = f"all {policy.max_attempts} hedged attempts failed"
        """Why there is none, once all have failed."""

    def sent(self, *, now: float) -> None:
        """A copy was sent, or the original: the next follows after the delay."""
        self.due = now + self._policy.hedging_delay if self._left else math.inf

    def take(self) -> None:
        """The next copy is being sent."""
        self._left -= 1
        self.due = math.inf

    def stop(self, why: str) -> None:
        """The copies under way are all there will be."""
        self._left = 0
        self.due = math.inf
        self.why = why

    def failed(self, outcome: Outcome, *, now: float) -> bool:
        """A copy failed. Returns whether the others may still succeed; :attr:`due` says when the next is sent.

        "If any hedge receives a non-fatal status, the next is sent immediately", unless the server pushes back: then
        after that long, or, where it forbids it, never.
        """
        if outcome.code not in self._policy.non_fatal_status_codes:
            return False
        pushback = outcome.pushback
        if pushback is not None and pushback < 0:
            self.stop("server pushback forbids further hedges")
        elif self._left:
            self.due = now + (pushback or 0.0)
        return True
