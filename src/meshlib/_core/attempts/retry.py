"""Whether a failed attempt is tried again, and after how long."""

from collections.abc import Callable
from random import Random
from typing import Any

from meshlib._core.policy import RetryPolicy
from meshlib._core.status import Outcome

__all__ = ["AttemptState", "backoff", "refusal"]


class AttemptState:
    """What a tenacity strategy may ask about a call: tenacity's ``RetryCallState`` without its clock.

    tenacity's own object reads the time itself; this one is told, so the same strategies run in virtual time.
    """

    __slots__ = ("_outcome", "attempt_number", "idle_for", "seconds_since_start", "upcoming_sleep")

    def __init__(
        self, outcome: Outcome, *, attempt_number: int, seconds_since_start: float, idle_for: float, upcoming_sleep: float
    ) -> None:
        self._outcome = outcome
        self.attempt_number = attempt_number
        self.seconds_since_start = seconds_since_start
        self.idle_for = idle_for
        self.upcoming_sleep = upcoming_sleep

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


def refusal(policy: RetryPolicy, outcome: Outcome, *, timed_out: bool, state: AttemptState) -> str | None:
    """Why this failure is not to be tried again; None if it is.

    Args:
        policy: the method's.
        outcome: the failure.
        timed_out: the attempt was given up for ``per_attempt_timeout``, which is retried like UNAVAILABLE.
        state: the call, for tenacity strategies.
    """
    if outcome.pushback is not None and outcome.pushback < 0:
        return "the server forbade a retry"
    if policy.unsent_only and outcome.sent:
        return "it may have reached a server, and unsent_only is set"
    if policy.when is not None:
        if not (timed_out or policy.when(state)):
            return "the retry condition said no"
    else:
        code = "UNAVAILABLE" if timed_out else outcome.code
        if code not in policy.retryable_status_codes:
            return f"{outcome.code} is not retried"
    if policy.stop is not None:
        return "the stop condition was met" if policy.stop(state) else None
    if state.attempt_number >= policy.max_attempts:
        return f"all {policy.max_attempts} attempts were used"
    return None


def backoff(policy: RetryPolicy, retry: int, *, rng: Random, state: Callable[[], AttemptState]) -> float:
    """Seconds before the ``retry``-th retry (1 is the first) since the start or the last pushback.

    Envoy ``JitteredExponentialBackOffStrategy``: full jitter below a bound that doubles up to its maximum.
    """
    if policy.wait is not None:
        return max(0.0, float(policy.wait(state())))
    bound = min(policy.initial_backoff * policy.backoff_multiplier ** (retry - 1), policy.max_backoff)
    return rng.random() * bound
