"""Envoy's circuit breaker (``ResourceManager``)."""

import math
from collections.abc import Callable
from typing import final

from meshlib._core.events import ChannelEvent
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.limits.refusals import Refusals
from meshlib._core.status import Outcome, local

__all__ = ["Breaker"]


@final
class Breaker:
    """The limits of one channel, and the outcomes of rejected calls.

    Args:
        policy: None: no limits.
    """

    __slots__ = (
        "_requests",
        "_waiting",
        "max_pending_requests",
        "max_requests",
        "max_retries",
        "requests_full",
        "waiting_full",
    )

    def __init__(self, policy: CircuitBreaker | None) -> None:
        self.max_requests: float = math.inf if policy is None else policy.max_requests
        self.max_pending_requests: float = math.inf if policy is None else policy.max_pending_requests
        unlimited = policy is None or policy.max_retries is None
        self.max_retries: float = math.inf if unlimited else policy.max_retries  # type: ignore[union-attr,assignment]
        self.requests_full = _full("max_requests", self.max_requests)
        self.waiting_full = _full("max_pending_requests", self.max_pending_requests)

        self._requests = Refusals(self.requests_full.details)
        self._waiting = Refusals(self.waiting_full.details)

    def refuse_request(self, note: Callable[[ChannelEvent], None], *, now: float) -> Outcome:
        """Reject an attempt above the limit in flight; return its outcome."""
        return _told(self._requests, self.requests_full, note, now)

    def refuse_waiting(self, note: Callable[[ChannelEvent], None], *, now: float) -> Outcome:
        """Reject a call above the limit of waiting ones; return its outcome."""
        return _told(self._waiting, self.waiting_full, note, now)

    @property
    def refused(self) -> int:
        """Attempts and calls rejected so far, without retries."""
        return self._requests.count + self._waiting.count

    def says(self, outcome: Outcome) -> bool:
        """Whether this circuit breaker rejected the call with ``outcome``."""
        return outcome is self.requests_full or outcome is self.waiting_full


def _told(refusals: Refusals, outcome: Outcome, note: Callable[[ChannelEvent], None], now: float) -> Outcome:
    event = refusals.one_more(now=now)
    if event is not None:
        note(event)
    return outcome


def _full(field: str, limit: float) -> Outcome:
    return local("UNAVAILABLE", f"circuit breaker open: {field}={limit:g}")
