"""Whether a failed attempt is tried again, and after how long."""

import math
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, final

from meshlib._core.attempts.policy import RetryPolicy
from meshlib._core.commands import StartAttempt
from meshlib._core.events import ChannelEvent, PluginFailed
from meshlib._core.status import Outcome

__all__ = ["LOCAL", "AttemptState", "Retries", "backoff", "carries", "reset_after", "timed_out"]

Metadata = Sequence[tuple[str, str | bytes]]

TIMER_SLACK: Final = 0.005
"""An attempt that ended DEADLINE_EXCEEDED this close to its own limit, in seconds, was ended by that limit: grpc rounds
deadlines to the millisecond, so its clock and ours may differ by a little."""

LOCAL: Final = "the attempt failed in this process; another attempt would fail in the same way"
"""Why a failure such as that of a credentials plug-in is not retried."""

SHORTEST_RESET: Final = 0.001
"""Seconds; a server that asks for no more is not heard (Envoy)."""


@final
class AttemptState:
    """What a tenacity strategy may ask about a call: tenacity's ``RetryCallState`` without its clock.

    tenacity's own object reads the time itself; this one is told, so the same strategies run in virtual time.

    Args:
        outcome: the failure that is being judged.
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
        """Seconds until the next attempt, known when ``stop`` is asked (tenacity ``stop_before_delay``)."""

    @property
    def outcome(self) -> "AttemptState":
        """The finished future of the attempt, as tenacity calls it."""
        return self

    @property
    def failed(self) -> bool:
        """Strategies are asked after failures only."""
        return True

    def exception(self) -> object:
        """The error of the attempt, a ``grpc.RpcError``."""
        return self._outcome.error

    def result(self) -> Any:
        """What ``Future.result()`` would do."""
        raise self._outcome.error  # type: ignore[misc]


@final
class Retries:
    """The retries of one call.

    Args:
        policy: the method's.
        rng: draws the jitter.
        note: hears of a strategy of the user's that failed.
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
        """Whether the failure judged last is one that retry throttling counts."""

    def decide(self, attempt: StartAttempt, outcome: Outcome, *, count: int, elapsed: float, now: float) -> float | str:
        """What follows a failure.

        Args:
            attempt: the one that failed.
            outcome: how.
            count: attempts so far, that one included.
            elapsed: seconds since the call began.
            now: monotonic seconds.

        Returns:
            The seconds to wait before the next attempt; or why there is to be none, in words.
        """
        policy = self._policy
        expired = timed_out(policy, attempt, outcome, now=now)
        state = AttemptState(outcome, attempt_number=count, seconds_since_start=elapsed, idle_for=self._idle)
        forbidden = outcome.pushback is not None and outcome.pushback < 0
        refusal = "" if forbidden else self._unfit(state, outcome, expired, now)
        # By what the failure is, not by whether attempts are left, and also where another is forbidden: gRFC A6.
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
        """Why a failure is none that is tried again; empty: it is one."""
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
        """What a strategy of the user's says; ``otherwise`` if it raises."""
        try:
            return strategy(state)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a call's
            self._failed(strategy, doing, error, now)
            return otherwise

    def _failed(self, strategy: object, doing: str, error: object, now: float) -> None:
        instead = "the default backoff is used" if doing == "wait" else "the call is not retried"
        self._note(PluginFailed(at=now, name=type(strategy).__name__, doing=doing, error=error, instead=instead))


def timed_out(policy: RetryPolicy, attempt: StartAttempt, outcome: Outcome, *, now: float) -> bool:
    """Whether ``per_attempt_timeout`` ended the attempt, rather than the deadline of the call or the server. Such an
    attempt is retried like one that was UNAVAILABLE."""
    if attempt.dropped:
        return True
    limit = policy.attempt_limit
    if outcome.code != "DEADLINE_EXCEEDED" or limit is None or attempt.timeout != limit:
        return False
    return now - attempt.start >= limit - TIMER_SLACK


def carries(metadata: Metadata, headers: Sequence[str | tuple[str, str]]) -> bool:
    """Whether any of ``headers``, names or pairs of name and value, is in ``metadata``."""
    return bool(headers) and any(key in headers or (key, value) in headers for key, value in metadata)


def reset_after(policy: RetryPolicy, outcome: Outcome) -> float | None:
    """Seconds after which the server wants to see the call again, by ``reset_headers``; None: it does not say."""
    for name, kind in policy.reset_headers:
        for key, value in outcome.metadata:
            if key != name or not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,18}", value):
                continue
            seconds = int(value) - (outcome.at if kind == "unix_timestamp" else 0)
            if SHORTEST_RESET < seconds <= policy.max_reset_interval:
                return seconds
    return None


def backoff(policy: RetryPolicy, retry: int, *, rng: Random) -> float:
    """Seconds before the ``retry``-th retry (1 is the first) since the start or the last pushback.

    Envoy ``JitteredExponentialBackOffStrategy``: full jitter below a bound that doubles up to its maximum.
    """
    try:
        bound = min(policy.initial_backoff * policy.backoff_multiplier ** (retry - 1), policy.max_backoff)
    except OverflowError:
        bound = policy.max_backoff
    return rng.random() * bound
