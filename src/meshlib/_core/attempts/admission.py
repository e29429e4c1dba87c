"""Whether a retry may be made now: the budget, the throttling and the circuit breaker of one channel together."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, final

from meshlib._core.attempts.budget import Budget
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.events import ChannelEvent
from meshlib._core.limits.refusals import Refusals
from meshlib._core.waiting import Waiting

if TYPE_CHECKING:
    from meshlib._core.call import Call

__all__ = ["Admission"]


@final
class Admission:
    """What calls ask before they try again. Each method takes the channel's lock.

    Args:
        lock: the channel's.
        budget: counts the places.
        throttle: counts the tokens; None: there is no throttling.
        waiting: knows who backs off.
        active: how many attempts are under way or calls wait for a host; asked under the lock.
        note: hears that retries are refused.
    """

    __slots__ = ("_active", "_budget", "_lock", "_note", "_refusals", "_waiting", "throttle")

    def __init__(
        self,
        lock: AbstractContextManager[Any],
        budget: Budget,
        throttle: Throttle | None,
        waiting: Waiting,
        *,
        active: Callable[[], int],
        note: Callable[[ChannelEvent], None],
    ) -> None:
        self._lock = lock
        self._budget = budget
        self.throttle = throttle
        self._waiting = waiting
        self._active = active
        self._note = note
        self._refusals: dict[str, Refusals] = {}

    def acquire(self, resting: "Call | None" = None) -> bool | None:
        """A place in the retry budget, if there is one; None: the circuit breaker allows no more. But for that the
        closing channel wakes ``resting``, a call that backs off now."""
        with self._lock:
            if self._budget.full:
                return None
            if resting is not None:
                self._waiting.rest(resting)
            return self._budget.acquire(self._active() + 1)

    def force(self) -> bool:
        """A place beyond the retry budget, for a call that its host took with it; the circuit breaker's limit holds."""
        with self._lock:
            return self._budget.force()

    def release(self) -> None:
        """The place is free again."""
        with self._lock:
            self._budget.release()

    def refuse(self, why: str, *, now: float) -> str:
        """A retry was not made, for want of a place or of tokens; returns ``why``."""
        with self._lock:
            event = self._refusals.setdefault(why, Refusals(why)).one_more(now=now)
        if event is not None:
            self._note(event)
        return why

    @property
    def remaining(self) -> int | None:
        """Retries that the budget would allow now; None: there is no limit."""
        limit = min(self._budget.limit(self._active()), self._budget.most)
        return None if limit == math.inf else max(0, int(limit) - self._budget.held)

    @property
    def refused(self) -> int:
        """Retries that were not made, so far."""
        return sum(refusals.count for refusals in tuple(self._refusals.values()))

    def throttled(self, *, ok: bool) -> bool:
        """An attempt of a call that may be tried again ended, well or not. Whether retries are held back."""
        throttle = self.throttle
        if throttle is None:
            return False
        with self._lock:
            if ok:
                throttle.succeeded()
            else:
                throttle.failed()
            return not throttle.allows
