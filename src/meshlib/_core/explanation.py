"""What became of a call, in words: the details of errors that no single attempt can account for."""

from collections.abc import Sequence
from typing import Final

from meshlib._core.commands import StartAttempt
from meshlib._core.status import Outcome, local

__all__ = ["COMMITTED", "OVER_BUDGET", "RETRIES_FULL", "THROTTLED", "deadline_exceeded", "explanation", "story"]

OVER_BUDGET: Final = "the retry budget of the channel is used up"
THROTTLED: Final = "retries are held back, because too many attempts have failed (retryThrottling)"
RETRIES_FULL: Final = "the circuit breaker allows no more retries (max_retries)"

COMMITTED: Final = {
    "message": "a message had reached the application",
    "headers": "the response headers had reached the application",
    "buffer": "the requests no longer fitted the replay buffer",
}
"""Why an attempt had become the one that counts, and so its failure was that of the call."""


def explanation(attempts: Sequence[StartAttempt], outcome: Outcome, why: str) -> str:
    """The details of a call that failed after several attempts.

    Args:
        attempts: oldest first.
        outcome: that of one of them, which became the call's.
        why: why it was not tried again.
    """
    last = next((attempt for attempt in attempts if attempt.outcome is outcome), attempts[-1])
    hosts = len({attempt.host for attempt in attempts})
    return (
        f"{outcome.code} after {_counted(len(attempts), 'attempt')} on {_counted(hosts, 'endpoint')} ({why}); "
        f"last: {last.host.endpoint.address} {outcome.details}"
    )


def story(attempts: Sequence[StartAttempt], code: str, why: str) -> str:
    """What became of a call that did not go straight, attempt by attempt, for the log."""
    told = [f"{a.host.endpoint.address} {a.why}: {'?' if a.outcome is None else a.outcome.code}" for a in attempts]
    return f"{code} after {_counted(len(attempts), 'attempt')} ({'; '.join([*told, *([why] if why else [])])})"


def deadline_exceeded(failure: StartAttempt | None, situation: str) -> Outcome:
    """The end of a call whose deadline passed while nothing was in flight.

    Args:
        failure: its last attempt that failed, if one did.
        situation: why there was no host, if it waited for one.
    """
    details = "Deadline Exceeded"
    if situation:
        details += f": {situation}"
    if failure is not None and failure.outcome is not None:
        details += f"; last attempt: {failure.outcome.code} {failure.outcome.details}"
    return local("DEADLINE_EXCEEDED", details)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
