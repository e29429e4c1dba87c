"""Whether a call may go on: Envoy's circuit breaker (``ResourceManager``)."""

import math
from typing import final

from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.status import Outcome, local

__all__ = ["Breaker"]


@final
class Breaker:
    """The limits of one channel, and how its calls are told of them. Every method runs under the channel's lock.

    Args:
        policy: None: no limits.
    """

    __slots__ = ("max_pending_requests", "max_requests", "max_retries", "refused", "requests_full", "waiting_full")

    def __init__(self, policy: CircuitBreaker | None) -> None:
        self.max_requests: float = math.inf if policy is None else policy.max_requests
        self.max_pending_requests: float = math.inf if policy is None else policy.max_pending_requests
        unlimited = policy is None or policy.max_retries is None
        self.max_retries: float = math.inf if unlimited else policy.max_retries  # type: ignore[union-attr,assignment]
        self.refused = 0
        """Attempts and calls refused so far, retries apart."""
        self.requests_full = _full("max_requests", self.max_requests, "attempts are in flight")
        self.waiting_full = _full("max_pending_requests", self.max_pending_requests, "calls wait for a host")

    def refuse(self, outcome: Outcome) -> Outcome:
        """One more is refused, with ``outcome``: :attr:`requests_full` or :attr:`waiting_full`."""
        self.refused += 1
        return outcome

    def says(self, outcome: Outcome) -> bool:
        """Whether ``outcome`` is a refusal of this circuit breaker."""
        return outcome is self.requests_full or outcome is self.waiting_full


def _full(field: str, limit: float, doing: str) -> Outcome:
    return local("UNAVAILABLE", f"refused by the circuit breaker: {field} is {limit:g}, and as many {doing}")
