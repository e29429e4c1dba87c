"""What became of a call, in words: for the text of its error. The details of an error stay the last server's."""

from collections.abc import Sequence
from typing import Final

from meshlib._core.commands import StartAttempt
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
"""Why an attempt had become the one that counts, and so its failure was that of the call."""


def explanation(attempts: Sequence[StartAttempt], outcome: Outcome, details: str, why: str) -> str:
    """The text of the error of a call.

    Args:
        attempts: oldest first.
        outcome: that of one of them, which became the call's; or one that was decided here.
        details: what the error has for details.
        why: why it was not tried again.
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


def story(attempts: Sequence[StartAttempt], code: str, why: str) -> str:
    """What became of a call that did not go straight, attempt by attempt, for the log."""
    told = [f"{a.host.endpoint.address} {a.why}: {a.code or '?'}" for a in attempts]
    return f"{code} after {_counted(len(attempts), 'attempt')} ({'; '.join([*told, *([why] if why else [])])})"


def deadline_exceeded(method: str, target: str, failure: StartAttempt | None, situation: str, hosts: str) -> Outcome:
    """The end of a call whose deadline passed while nothing was in flight.

    Args:
        method: its full name.
        target: of the channel.
        failure: its last attempt that failed, if one did.
        situation: why there was no host, if it waited for one.
        hosts: which there are, if it waited for one.
    """
    details = f"Deadline Exceeded: {method} on {target!r}"
    if situation:
        details += f": {situation}"
    if failure is not None and failure.outcome is not None:
        # Its code alone: C-core's words for a refused connection hold the address of the host.
        details += f"; last attempt: {failure.outcome.code}"
        hosts = f"{failure.outcome.details}{f'; {hosts}' if hosts else ''}"
    return local("DEADLINE_EXCEEDED", details, hosts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
