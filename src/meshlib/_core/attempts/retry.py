"""Whether a failed attempt is retried, and after what delay."""

import math
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, final

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.policy import RetryPolicy
from meshlib._core.events import ChannelEvent, PluginFailed
from meshlib._core.status import Outcome

__all__ = ["LOCAL", "AttemptState", "Retries", "backoff", "carries", "reset_after", "timed_out"]

Metadata = Sequence[tuple[str, str | bytes]]

TIMER_SLACK: Final = 0.005
"""Seconds; an attempt that ended DEADLINE_EXCEEDED this close to its own limit was ended by that limit: grpc rounds
deadlines to the millisecond, so its clock and ours may differ by a little."""

LOCAL: Final = "the attempt failed in this process; another attempt would fail in the same way"
"""Why a failure such as that of a credentials plug-in is not retried."""

SHORTEST_RESET: Final = 0.001
"""Seconds; a reset that is not longer is ignored (Envoy)."""


@final
class AttemptState:
    """The state of a call for tenacity strategies: tenacity's ``RetryCallState`` without its clock.

    tenacity's own object reads the time itself; this one is given it, so the same strategies run in virtual time.

    Args:
        outcome: the failure to judge.
        attempt_number: attempts so far, that one included.
        seconds_since_start: since the call began.
        idle_for: seconds spent backing off so far.
    """

    __slots__ = ("_outcome", "attempt_number", "idle_for", "seconds_since_start", "upcoming_sleep")

    def __init__(
        self, outcome: Outcome, *, attempt_number: int, seconds_since_start: float, idle_for: float = 0.0
    ) -> None:
        self._outcome = outcome
        self.attempt_number = attempt_number
        self.seconds_since_start = seconds_since_start
        self.idle_for = idle_for
        self.upcoming_sleep = 0.0
        """Seconds until the next attempt, set when ``stop`` is called (tenacity ``stop_before_delay``)."""

    @property
    def outcome(self) -> "AttemptState":
        """The finished future of the attempt, in tenacity's terms."""
        return self

    @property
    def failed(self) -> bool:
        """True: strategies run after failures only."""
        return True

    def exception(self) -> object:
        """Return the error of the attempt, a ``grpc.RpcError``."""
        return self._outcome.error

    def result(self) -> Any:
        """Raise the error, as ``Future.result()``."""
        raise self._outcome.error  # type: ignore[misc]


@final
class Retries:
    """The retries of one call.

    Args:
        policy: of the method.
        rng: draws the jitter.
        note: is notified of a failed strategy of the user's.
    """

    __slots__ = ("_idle", "_note", "_policy", "_rng", "_row", "throttling")

    def __init__(self, policy: RetryPolicy, rng: Random, note: Callable[[ChannelEvent], None]) -> None:
        self._policy = policy
        self._rng = rng
        self._note = note
        self._row = 0
        """Retries since the start or the last pushback."""
        self._idle = 0.0
        self.throttling = False
        """Whether retry throttling counts the last failure."""

    def decide(
        self, attempt: AttemptRecord, outcome: Outcome, *, count: int, elapsed: float, now: float
    ) -> float | str:
        """Decide whether a failed attempt is retried.

        Args:
            attempt: the failed one.
            outcome: its failure.
            count: attempts so far, that one included.
            elapsed: seconds since the call began.
            now: monotonic seconds.

        Returns:
            The seconds to wait before the next attempt; or why there is none, in words.
        """
        policy = self._policy
        expired = timed_out(policy, attempt, outcome, now=now)
        state = AttemptState(outcome, attempt_number=count, seconds_since_start=elapsed, idle_for=self._idle)
        forbidden = outcome.pushback is not None and outcome.pushback < 0
        refusal = "" if forbidden else self._unfit(state, outcome, expired, now)
        # Only by the failure, even if no attempt is left or another is forbidden: gRFC A6.
        self.throttling = not refusal
        if forbidden:
            return "server pushback forbids a retry"
        if refusal:
            return refusal
        if policy.unsent_only and outcome.sent:
            return "the attempt may have reached a server, and unsent_only=True"
        if policy.stop is None and count >= policy.max_attempts:
            return f"all {policy.max_attempts} attempts were used"
        told = outcome.pushback
        delay = told if told is not None else self._wait(outcome, state, now)
        state.upcoming_sleep = delay
        if policy.stop is not None and self._asked(policy.stop, "stop", state, True, now):
            return "the stop condition (stop=) was met"
        # "If the server pushes back ... the backoff sequence is reset": gRFC A6.
        self._row = 0 if outcome.pushback is not None else self._row + 1
        self._idle += delay
        return delay

    def _unfit(self, state: AttemptState, outcome: Outcome, expired: bool, now: float) -> str:
        """Return why a failure is not retriable; empty: it is."""
        policy = self._policy
        if outcome.local:
            return LOCAL
        if carries(outcome.metadata, policy.retriable_headers):
            return ""
        if policy.when is not None:
            met = expired or self._asked(policy.when, "when", state, False, now)
            return "" if met else "the retry condition (when=) was not met"
        code = "UNAVAILABLE" if expired else outcome.code
        return "" if code in policy.retryable_status_codes else f"{outcome.code} is not retried"

    def _wait(self, outcome: Outcome, state: AttemptState, now: float) -> float:
        policy = self._policy
        reset = reset_after(policy, outcome)
        if reset is not None:
            # Envoy JitteredLowerBoundBackOffStrategy: at least that long, and up to half as long again.
            return reset + self._rng.random() * reset / 2
        own = backoff(policy, self._row + 1, rng=self._rng)
        if policy.wait is None:
            return own
        seconds = self._asked(policy.wait, "wait", state, own, now)
        if isinstance(seconds, int | float) and math.isfinite(seconds):
            return max(0.0, float(seconds))
        self._failed(policy.wait, "wait", f"returned {seconds!r}, not a number of seconds", now)
        return own

    def _asked(
        self, strategy: Callable[[Any], Any], doing: str, state: AttemptState, otherwise: object, now: float
    ) -> object:
        """Call a strategy of the user's; return ``otherwise`` if it raises."""
        try:
            return strategy(state)
        except Exception as error:  # noqa: BLE001 - a failed plug-in must not fail the call
            self._failed(strategy, doing, error, now)
            return otherwise

    def _failed(self, strategy: object, doing: str, error: object, now: float) -> None:
        instead = "the default backoff is used" if doing == "wait" else "the call is not retried"
        self._note(PluginFailed(at=now, name=type(strategy).__name__, doing=doing, error=error, instead=instead))


def timed_out(policy: RetryPolicy, attempt: AttemptRecord, outcome: Outcome, *, now: float) -> bool:
    """Whether ``per_attempt_timeout`` ended the attempt, rather than the deadline of the call or the server. Such an
    attempt is retried as UNAVAILABLE."""
    if attempt.dropped:
        return True
    limit = policy.attempt_limit
    if outcome.code != "DEADLINE_EXCEEDED" or limit is None or attempt.timeout != limit:
        return False
    return now - attempt.start >= limit - TIMER_SLACK


def carries(metadata: Metadata, headers: Sequence[str | tuple[str, str]]) -> bool:
    """Whether ``metadata`` has any of ``headers``, names or pairs of name and value."""
    return bool(headers) and any(key in headers or (key, value) in headers for key, value in metadata)


def reset_after(policy: RetryPolicy, outcome: Outcome) -> float | None:
    """Return the seconds that ``reset_headers`` ask to wait; None: there are none."""
    for name, kind in policy.reset_headers:
        for key, value in outcome.metadata:
            if key != name or not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,18}", value):
                continue
            seconds = int(value) - (outcome.at if kind == "unix_timestamp" else 0)
            if SHORTEST_RESET < seconds <= policy.max_reset_interval:
                return seconds
    return None


def backoff(policy: RetryPolicy, retry: int, *, rng: Random) -> float:
    """Return the seconds before the ``retry``-th retry (1 is the first) since the start or the last pushback.

    Envoy ``JitteredExponentialBackOffStrategy``: full jitter below a bound that doubles up to its maximum.
    """
    try:
        bound = min(policy.initial_backoff * policy.backoff_multiplier ** (retry - 1), policy.max_backoff)
    except OverflowError:
        bound = policy.max_backoff
    return rng.random() * bound
