"""When to ask a resolver again, and what its answer changes.

Nothing here waits or asks: the shell calls :meth:`Refresh.begin` when :meth:`Refresh.next_timer` has come, puts the
question, and reports the answer. The rules, all from the experience of those who had no rules:

* An answer is asked for again at its TTL, not before and not much later; a floor keeps a TTL of 0 (Consul's default)
  from becoming a storm of queries, a ceiling keeps a TTL of a day from hiding a deployment.
* A little jitter, so that a thousand clients started by one deployment do not ask at the same instant for ever after.
* What worked stays: a resolver that fails, or that suddenly knows nothing, takes no endpoint away.
* A host that *becomes* failing is a reason to ask at once, once; one that stays dead in DNS is none.
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
        floor: least seconds between the starts of two questions, unless :meth:`resolve_now` asks.
        ceiling: most seconds between a good answer and the next question; infinite: whatever the TTL says.
        allow_empty: whether an answer without endpoints is believed.
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
        """Why the last question failed; None after a good answer."""
        return self._error

    @property
    def asking(self) -> bool:
        """Whether a question is under way."""
        return self._asking

    def next_timer(self) -> float | None:
        """When to :meth:`begin`; None while a question is under way, and when only a reason to ask again would help."""
        return None if self._asking else self._due

    def begin(self, *, now: float) -> Resolution | None:
        """A question is put now. Returns what the resolver is to be told: the last good answer."""
        self._asking = True
        self._asked_at = now
        return self._current

    def on_answer(self, answer: Resolution, *, now: float) -> Resolution | ResolveError | None:
        """The resolver answered.

        Returns:
            What is new: the answer, if it names other endpoints than before or ends a failure; an error, if it names
            none and that is not believed; else None.
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
        """The resolver failed: the last good answer stays, and the next question backs off."""
        self._asking = False
        self._error = error
        base = min(BACKOFF_FIRST * BACKOFF_MULTIPLIER ** min(self._failures, 10), BACKOFF_LAST)
        self._failures += 1
        low, high = max(base * (1 - BACKOFF_JITTER), BACKOFF_FIRST), min(base * (1 + BACKOFF_JITTER), BACKOFF_LAST)
        self._due = now + self._rng.uniform(low, high)
        return error

    def hurry(self, *, now: float) -> None:
        """There is reason to doubt the endpoints, or somebody new waits for them: ask at once, outside the floor.

        No question is put while one is under way. A back-off is cut short, but not forgotten.
        """
        at = max(now, self._asked_at + self._floor)
        self._due = at if self._due is None else min(self._due, at)

    def resolve_now(self, *, now: float) -> None:
        """Somebody asked in person: ask at once, unless a question is under way."""
        self._due = now

    def abandon(self) -> None:
        """The last subscriber left, and with him the question under way. The next one is due at once, and whoever waits
        for it is to hear its outcome: an old failure says nothing of now."""
        self._asking = False
        self._error = None
        self._failures = 0
        self._due = -math.inf

    def _after(self, ttl: float, now: float) -> float:
        """The floor counts from the last question: a watch that waited longer than that may be put again at once."""
        delay = min(max(ttl, self._asked_at + self._floor - now, 0.0), self._ceiling)
        return now + delay + self._rng.uniform(0.0, min(JITTER * delay, JITTER_MAX))


def _content(resolution: Resolution) -> frozenset[Endpoint]:
    """DNS servers rotate their records; the order says nothing."""
    return frozenset(resolution.endpoints)
