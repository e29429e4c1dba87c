"""Error text of a failed call. The details of an error stay the last server's."""

from collections.abc import Sequence
from typing import Final

from meshlib._core.attempt import AttemptRecord
from meshlib._core.status import Outcome, local

__all__ = ["COMMITTED", "OVER_BUDGET", "RETRIES_FULL", "THROTTLED", "deadline_exceeded", "explanation", "story"]

OVER_BUDGET: Final = "retry budget exhausted"
THROTTLED: Final = "retries throttled: too many attempts failed (retryThrottling)"
RETRIES_FULL: Final = "circuit breaker open: max_retries reached"

COMMITTED: Final = {
    "message": "the application had already received a message",
    "headers": "the application had already read the response headers",
    "buffer": "the requests exceeded the replay buffer (buffer_size)",
}
"""Why the call was committed to an attempt, so that its failure ended the call."""


def explanation(attempts: Sequence[AttemptRecord], outcome: Outcome, details: str, why: str) -> str:
    """Error text of a call.

    Args:
        attempts: oldest first.
        outcome: of the call; it may be that of an attempt, or decided locally.
        details: the details of the error.
        why: why it was not retried.
    """
    if not attempts:
        return f"{outcome.code}: {details}" + (f" ({outcome.more})" if outcome.more else "")
    last = next((attempt for attempt in attempts if attempt.outcome is outcome), attempts[-1])
    hosts = len({attempt.host for attempt in attempts})
    return (
        f"{outcome.code} after {_counted(len(attempts), 'attempt')} on {_counted(hosts, 'endpoint')}"
        f"{f' ({why})' if why else ''}; last: {last.host.endpoint.address} {details}"
        f"{f' ({outcome.more})' if outcome.more else ''}"
    )


def story(attempts: Sequence[AttemptRecord], code: str, why: str) -> str:
    """Log text of a call that did not succeed at once: its attempts."""
    told = [f"{a.host.endpoint.address} {a.why}: {a.code or '?'}" for a in attempts]
    return f"{code} after {_counted(len(attempts), 'attempt')} ({'; '.join([*told, *([why] if why else [])])})"


def deadline_exceeded(method: str, target: str, failure: AttemptRecord | None, situation: str, hosts: str) -> Outcome:
    """Outcome of a call whose deadline passed while no attempt was in flight.

    Args:
        method: its full name.
        target: of the channel.
        failure: its last failed attempt, if any.
        situation: why no host was available, if it waited for one.
        hosts: the hosts and their states, if it waited for one.
    """
    details = f"Deadline Exceeded: {method} on {target!r}"
    if situation:
        details += f": {situation}"
    if failure is not None and failure.outcome is not None:
        # Only its code: C-core's error for a refused connection contains the address of the host.
        details += f"; last attempt: {failure.outcome.code}"
        hosts = f"{failure.outcome.details}{f'; {hosts}' if hosts else ''}"
    return local("DEADLINE_EXCEEDED", details, hosts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
