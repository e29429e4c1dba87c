"""Schedule of resolutions, and the effect of each answer.

Nothing here waits or queries: the shell calls :meth:`Refresh.begin` when :meth:`Refresh.next_timer` is due, calls the
resolver, and reports the answer. Each rule prevents a problem seen in practice:

* A name is resolved again at its TTL, not before and not much later. A floor keeps a TTL of 0 (Consul's default) from
  causing a storm of queries; a ceiling keeps a TTL of a day from hiding a deployment.
* Jitter keeps clients that one deployment started together from querying together each time.
* The last good endpoints are kept when a resolver fails, or suddenly returns none.
* A host that *begins* to fail causes one resolution at once; one that stays dead in DNS causes none.
"""

import math
from random import Random
from typing import final

from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Endpoint, Resolution

__all__ = ["Refresh"]

JITTER, JITTER_MAX = 0.1, 0.5
"""The delay is drawn from [d, d + min(JITTER x d, JITTER_MAX seconds))."""

BACKOFF_FIRST, BACKOFF_LAST, BACKOFF_MULTIPLIER, BACKOFF_JITTER = 1.0, 30.0, 2.0, 0.2
"""After n failures in a row: first x multiplier^(n-1) seconds, 20 % more or less, never outside [first, last]."""


@final
class Refresh:
    """The state of one resolution. Inputs take ``now``, monotonic seconds.

    Args:
        rng: draws the jitter.
        floor: least seconds between the starts of two queries, except by :meth:`resolve_now`.
        ceiling: most seconds between a good answer and the next query; infinite: only the TTL counts.
        allow_empty: whether an answer without endpoints is accepted.
    """

    def __init__(
        self, *, rng: Random, floor: float = 1.0, ceiling: float = math.inf, allow_empty: bool = False
    ) -> None:
        self._rng = rng
        self._floor = floor
        self._ceiling = ceiling
        self._allow_empty = allow_empty
        self._current: Resolution | None = None
        self._error: ResolveError | None = None
        self._failures = 0
        self._asking = False
        self._asked_at = -math.inf
        self._due: float | None = -math.inf

    @property
    def current(self) -> Resolution | None:
        """The last good answer."""
        return self._current

    @property
    def error(self) -> ResolveError | None:
        """Error of the last query; None after a good answer."""
        return self._error

    @property
    def asking(self) -> bool:
        """Whether a query is in flight."""
        return self._asking

    def next_timer(self) -> float | None:
        """Return when to :meth:`begin`; None while a query is in flight, or until there is a reason for one."""
        return None if self._asking else self._due

    def begin(self, *, now: float) -> Resolution | None:
        """Start a query. Returns the last good answer, for the resolver."""
        self._asking = True
        self._asked_at = now
        return self._current

    def on_answer(self, answer: Resolution, *, now: float) -> Resolution | ResolveError | None:
        """Record an answer.

        Returns:
            The answer, if it has other endpoints than before or ends a failure; an error, if it has none and that is
            not accepted; else None.
        """
        if not answer.endpoints and not self._allow_empty:
            return self.on_failure(ResolveError("the resolver returned no endpoints", absent=True), now=now)
        same = self._current is not None and _content(self._current) == _content(answer) and self._error is None
        self._asking = False
        self._failures = 0
        self._error = None
        self._current = answer
        self._due = None if answer.ttl is None else self._after(answer.ttl, now)
        return None if same else answer

    def on_failure(self, error: ResolveError, *, now: float) -> ResolveError:
        """Record a failure: the last good answer is kept, and the next query backs off."""
        self._asking = False
        self._error = error
        base = min(BACKOFF_FIRST * BACKOFF_MULTIPLIER ** min(self._failures, 10), BACKOFF_LAST)
        self._failures += 1
        low, high = max(base * (1 - BACKOFF_JITTER), BACKOFF_FIRST), min(base * (1 + BACKOFF_JITTER), BACKOFF_LAST)
        self._due = now + self._rng.uniform(low, high)
        return error

    def hurry(self, *, now: float) -> None:
        """Resolve as soon as the floor allows: the endpoints are in doubt, or a new subscriber waits for them.

        No query starts while one is in flight. A backoff is cut short, but not reset.
        """
        at = max(now, self._asked_at + self._floor)
        self._due = at if self._due is None else min(self._due, at)

    def resolve_now(self, *, now: float) -> None:
        """Resolve at once on request, unless a query is in flight."""
        self._due = now

    def abandon(self) -> None:
        """Reset after the last subscriber leaves; its query was cancelled. The next one is due at once, and its outcome
        is reported: an old failure is outdated."""
        self._asking = False
        self._error = None
        self._failures = 0
        self._due = -math.inf

    def _after(self, ttl: float, now: float) -> float:
        """Return when to resolve next. The floor counts from the last query: a longer watch restarts at once."""
        delay = min(max(ttl, self._asked_at + self._floor - now, 0.0), self._ceiling)
        return now + delay + self._rng.uniform(0.0, min(JITTER * delay, JITTER_MAX))


def _content(resolution: Resolution) -> frozenset[Endpoint]:
    """Ignore the order: DNS servers rotate their records."""
    return frozenset(resolution.endpoints)
