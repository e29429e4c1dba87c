"""State of one call: attempts, outcome and end."""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.retry import Retries
from meshlib._core.cluster_calls import ClusterCalls
from meshlib._core.commands import CallCommands, CancelAttempt, Finish
from meshlib._core.deadlines import INVALID_TIMEOUT
from meshlib._core.events import AttemptStarted, Broken, CallEvent, NotRetried
from meshlib._core.explanation import deadline_exceeded, explanation
from meshlib._core.host import HostEntry
from meshlib._core.policy import Plan
from meshlib._core.status import Outcome

__all__ = ["BACKOFF", "DONE", "FLYING", "NEW", "WAITING", "CallObserver", "CallRecord", "State"]


class State(Enum):
    """State of a call."""

    NEW = "new"
    WAITING = "waiting for a host"
    FLYING = "in flight"
    BACKOFF = "backing off"
    DONE = "done"


NEW, WAITING, FLYING, BACKOFF, DONE = State  # as globals: on 3.11 looking up a member costs 50 ns


class CallObserver(Protocol):
    """Observer of call events, on the thread that feeds the call."""

    @property
    def every_event(self) -> bool:
        """Whether it also receives the events of nearly every call: first attempt started, attempt ended OK."""
        ...

    def on_attempt_started(self, call: "CallRecord", event: AttemptStarted) -> tuple[tuple[str, str], ...]:
        """Handle the start of an attempt, before it is sent. Returns the metadata to add to it."""
        ...

    def on_call_event(self, call: "CallRecord", event: CallEvent) -> None:
        """Handle any other event of a call."""
        ...


class CallRecord:
    """State of one call; also the ``PickInfo`` of its picks, so that a pick allocates nothing.

    Args:
        cluster: the cluster it is sent to.
        plan: the policies of its method.
        method: the full method name.
        metadata: the caller's request metadata.
        deadline: monotonic second by which it must end, or None.
        wait_for_ready: wait for a host rather than fail while none can be reached.
        streaming: the response is a stream, whose attempts are timed here: after the first message
            ``per_attempt_timeout`` no longer applies.
    """

    # Defaults of rarely used attributes are on the class, so that other calls do not pay for them.

    hash: int | None = None
    streaming: bool = False
    observer: CallObserver | None = None
    """Receives its events."""
    state: State = NEW
    attempts: tuple[AttemptRecord, ...] = ()
    tried: tuple[HostEntry, ...] = ()
    """Hosts it was sent to, oldest first."""
    picked: HostEntry | None = None
    """Host that counts an attempt in flight which has not been made yet."""
    holds: bool = False
    """Such an attempt counts against the retry budget."""
    waker: Callable[[], None] | None = None
    """Called when the shell should call :meth:`on_endpoints` of a waiting call; set by the shell."""
    woken: bool = False
    """The same, for a shell that polls."""
    waited: bool = False
    """It waits for a host, or has since its last attempt."""
    reading: bool = False
    """The application waits for a message of a stream, so attempt timeouts run."""
    begun: float = 0.0
    """Monotonic second of its start."""
    committed: int = 0
    """Number of the committed attempt; 0: none."""
    verdict: str = ""
    """Why its failure was not retried, in words."""
    _flying: int = 0
    """Attempts in flight that count."""
    _refused: int = 0
    """Attempts that do not count: grpc refused them, and another was sent instead."""
    _failure: AttemptRecord | None = None
    """The last attempt that failed; during a back-off it counts against the retry budget for the next one."""
    _why: str = "first"
    """Kind of the next attempt."""
    _resume_at: float = math.inf
    _polls: int = 0
    """Number of checks whether the connection of the last failure was lost."""
    _commitment: str = ""
    _retries: Retries | None = None

    def __init__(
        self,
        cluster: ClusterCalls,
        plan: Plan,
        method: str,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        deadline: float | None = None,
        wait_for_ready: bool = False,
        *,
        streaming: bool = False,
    ) -> None:
        self.cluster = cluster
        self.plan = plan
        self.method = method
        self.metadata = metadata
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        if streaming:
            self.streaming = True

    def observe(self, observer: CallObserver) -> None:
        """Send the events of the call to ``observer``, before it begins."""
        self.observer = observer

    def wake(self) -> None:
        """Request :meth:`on_endpoints` from the shell: sets ``woken`` and calls the waker, if there is one."""
        self.woken = True
        waker = self.waker
        if waker is not None:
            waker()

    @property
    def reselections(self) -> int | None:
        """Number of further picks if the balancer picks a host that was tried; None: until it picks another."""
        retry = self.plan.retry
        return None if retry is None else retry.host_selection_retry_max_attempts

    @property
    def used_up(self) -> bool:
        """Whether it failed after the maximum number of attempts of its policy, which is more than one."""
        policy = self.plan.retry or self.plan.hedging
        count = len(self.attempts) - self._refused
        return policy is not None and 1 < policy.max_attempts <= count and self.state is DONE

    def _expire(self, now: float) -> CallCommands:
        """End the call whose deadline passed while no attempt was in flight."""
        self.verdict = "the deadline passed"
        if self.deadline is not None and math.isnan(self.deadline):
            self.verdict = INVALID_TIMEOUT.details
            return self._finish(INVALID_TIMEOUT)
        situation = hosts = ""
        if self.state is WAITING:
            situation, hosts = self.cluster.situation(), self.cluster.hosts.describe()
        return self._finish(deadline_exceeded(self.method, self.cluster.name, self._failure, situation, hosts))

    def _unreachable(self, outcome: Outcome, now: float) -> CallCommands:
        """End the call: no host is available, or the circuit breaker rejected the attempt. The last server's error is
        more useful, unless the channel closed."""
        self._broken(outcome, now)
        if self._failure is not None and not self.cluster.closed:
            return self._final(self._failure, outcome.details, now)
        self.verdict = outcome.details
        return self._finish(outcome)

    def _broken(self, outcome: Outcome, now: float) -> None:
        """Notify the observer of a rejection by the circuit breaker, if it is one."""
        if self.observer is not None and self.cluster.breaker.says(outcome):
            self.observer.on_call_event(self, Broken(at=now, why=outcome.details))

    def _final(self, attempt: AttemptRecord, why: str, now: float) -> CallCommands:
        """End the call with a failure that is not retried."""
        assert attempt.outcome is not None
        self.verdict = why
        if self.observer is not None:
            self.observer.on_call_event(self, NotRetried(at=now, n=attempt.n, why=why))
        return self._finish(attempt.outcome, attempt.n)

    def _finish(self, outcome: Outcome, n: int = 0) -> CallCommands:
        if self.state is WAITING or self.state is BACKOFF:
            self.cluster.leave(self)
        self.state = DONE
        for attempt in self.attempts:
            self._free(attempt)
        return (*self._drop(), Finish(outcome, n))

    def _drop(self, but: AttemptRecord | None = None) -> CallCommands:
        """Cancel the attempts in flight; their outcomes no longer count."""
        dropped = [a for a in self.attempts if a.outcome is None and not a.dropped and a is not but]
        for attempt in dropped:
            attempt.dropped = True
            self._free(attempt)
        self._flying -= len(dropped)
        return tuple(CancelAttempt(attempt.n) for attempt in dropped)

    def _free(self, attempt: AttemptRecord) -> None:
        """Release the retry budget that an attempt holds."""
        if attempt.holds:
            self.cluster.retries.release(attempt)

    def abandon(self, outcome: Outcome, *, now: float) -> tuple[AttemptRecord, ...]:
        """End the call with ``outcome`` after an exception interrupted its machine between any two lines.

        Such an exception comes from a signal handler of the application. Releases all counts, and returns the attempts
        that are still to be reported.
        """
        if self.state is NEW:
            self.begun = self.begun or now
        self.state = DONE
        self.cluster.leave(self)
        self.cluster.release_pick(self)
        if self.holds:
            self.cluster.retries.release(self)
        for attempt in self.attempts:
            self._free(attempt)
            if attempt.outcome is None:
                attempt.outcome = outcome
            attempt.dropped = True
        self._flying = 0
        return tuple(attempt for attempt in self.attempts if attempt.seconds is None)

    def release_errors(self) -> None:
        """Release the errors of its attempts. One that holds the call would be in a cycle with it."""
        for attempt in self.attempts:
            if attempt.outcome is not None:
                attempt.outcome.error = None

    def details(self, outcome: Outcome) -> str:
        """Error details of a call that ended with ``outcome``: the last server's, unchanged. If the deadline passed
        before a server answered, they are meshlib's and name method and target."""
        if outcome.code == "DEADLINE_EXCEEDED" and not outcome.answered and not outcome.local:
            words = "Deadline Exceeded" if outcome.error is not None else outcome.details
            return f"{words}: {self.method} on {self.cluster.name!r}"
        return outcome.details

    def explain(self, outcome: Outcome) -> str:
        """Error text of a failed call: its attempts, with addresses."""
        return explanation(self.attempts, outcome, self.details(outcome), self.verdict)
