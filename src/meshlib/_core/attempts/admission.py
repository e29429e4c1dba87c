"""Admission of retries: the budget, the throttling and the circuit breaker of one channel together."""

import math
from collections.abc import Callable
from typing import final

from meshlib._core.attempts.budget import Budget, Holder
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.events import ChannelEvent
from meshlib._core.limits.refusals import Refusals
from meshlib._core.pending_calls import PendingCalls
from meshlib._core.waiter import Waiter

__all__ = ["Admission"]


@final
class Admission:
    """Admits or rejects the retries of calls.

    Args:
        budget: counts the slots.
        throttle: counts the tokens; None: no throttling.
        waiting: holds the calls in backoff.
        active: returns the number of attempts in flight and calls waiting for a host.
        note: is notified of rejected retries.
    """

    __slots__ = ("_active", "_budget", "_note", "_refusals", "_waiting", "throttle")

    def __init__(
        self,
        budget: Budget,
        throttle: Throttle | None,
        waiting: PendingCalls,
        *,
        active: Callable[[], int],
        note: Callable[[ChannelEvent], None],
    ) -> None:
        self._budget = budget
        self.throttle = throttle
        self._waiting = waiting
        self._active = active
        self._note = note
        self._refusals: dict[str, Refusals] = {}

    def acquire(self, holder: Holder, resting: Waiter | None = None) -> bool | None:
        """Take a slot of the retry budget for ``holder``, if there is one; None: the circuit breaker allows no more.
        Unless None, the closing channel wakes ``resting``, a call that backs off now."""
        if self._budget.full:
            return None
        if resting is not None:
            self._waiting.rest(resting)
        return self._budget.acquire(self._active() + 1, holder)

    def force(self, holder: Holder) -> bool:
        """Take a slot beyond the retry budget, for a call whose host was lost; the circuit breaker's limit holds."""
        return self._budget.force(holder)

    def release(self, holder: Holder) -> None:
        """Release the slot."""
        self._budget.release(holder)

    def refuse(self, why: str, *, now: float) -> str:
        """Record a retry rejected for lack of slots or tokens; return ``why``."""
        event = self._refusals.setdefault(why, Refusals(why)).one_more(now=now)
        if event is not None:
            self._note(event)
        return why

    @property
    def remaining(self) -> int | None:
        """Retries that the budget would allow now; None: no limit."""
        limit = min(self._budget.limit(self._active()), self._budget.most)
        return None if limit == math.inf else max(0, int(limit) - self._budget.held)

    @property
    def refused(self) -> int:
        """Retries rejected so far."""
        return sum(refusals.count for refusals in tuple(self._refusals.values()))

    def throttled(self, *, ok: bool) -> bool:
        """Record the end of an attempt of a retriable call; return whether retries are throttled."""
        throttle = self.throttle
        if throttle is None:
            return False
        if ok:
            throttle.succeeded()
        else:
            throttle.failed()
        return not throttle.allows
