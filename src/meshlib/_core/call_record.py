"""The state of one call: its attempts, its outcome, and how it ends."""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from meshlib._core.attempts.retry import Retries
from meshlib._core.cluster_calls import ClusterCalls
from meshlib._core.commands import CallCommands, CancelAttempt, Finish, StartAttempt
from meshlib._core.deadlines import INVALID_TIMEOUT
from meshlib._core.events import Broken, CallEvent, NotRetried
from meshlib._core.explanation import deadline_exceeded, explanation
from meshlib._core.host import HostEntry
from meshlib._core.policy import Plan
from meshlib._core.status import Outcome

__all__ = ["BACKOFF", "DONE", "FLYING", "NEW", "WAITING", "CallObserver", "CallRecord", "State"]


class State(Enum):
    """Where a call is."""

    NEW = "new"
    WAITING = "waiting for a host"
    FLYING = "in flight"
    BACKOFF = "backing off"
    DONE = "done"


NEW, WAITING, FLYING, BACKOFF, DONE = State  # as globals: on 3.11 a member costs 50 ns to look up


class CallObserver(Protocol):
    """Receives the events of calls, on the thread that feeds the call."""

    def on_call_event(self, call: "CallRecord", event: CallEvent) -> None:
        """One event of one call."""
        ...


class CallRecord:
    """The state of one call. It is also the ``PickInfo`` of its picks, so that nothing is allocated for a pick.

    Args:
        cluster: the service it is for.
        plan: the policies of its method.
        method: the full method name.
        metadata: the caller's request metadata.
        deadline: monotonic second by which it must end, or None.
        wait_for_ready: wait for a host rather than fail while none can be reached.
        streaming: the response is a stream, whose attempts are timed here: they outlive ``per_attempt_timeout`` once a
            message has come.
        observer: hears its events.
    """

    # What few calls ever need has its value here, so that the others do not pay for it.

    hash: int | None = None
    streaming: bool = False
    observer: CallObserver | None = None
    every_event: bool = True
    """Whether the observer is also told what nearly every call is: its first attempt begins, an attempt ends well."""
    state: State = NEW
    attempts: tuple[StartAttempt, ...] = ()
    tried: tuple[HostEntry, ...] = ()
    """Hosts it was sent to, oldest first."""
    picked: HostEntry | None = None
    """Where it has a place for an attempt that has not been made yet."""
    holds: bool = False
    """It holds a place in the retry budget for such an attempt."""
    span: object = None
    """Whatever telemetry keeps for the call."""
    waker: Callable[[], None] | None = None
    """How the shell is told that a waiting call should be fed :meth:`on_endpoints`."""
    woken: bool = False
    """The same, for a shell that looks."""
    waited: bool = False
    """It waits for a host, or has since its last attempt."""
    reading: bool = True
    """The application waits for a message of a stream, so that time may run against its attempts."""
    begun: float = 0.0
    """Monotonic second of its start."""
    committed: int = 0
    """The attempt whose answer counts, whatever it is; 0 while there is none."""
    verdict: str = ""
    """Why its failure was not tried again, in words."""
    _flying: int = 0
    """Attempts in flight that count."""
    _refused: int = 0
    """Attempts that count for nothing, because grpc refused them and another was sent in their place."""
    _failure: StartAttempt | None = None
    """The last attempt that failed; while another is to follow, it keeps the place in the retry budget for that."""
    _why: str = "first"
    """What the attempt that is waited for will be."""
    _resume_at: float = math.inf
    _polls: int = 0
    """How often the connection of its last failure was judged."""
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
        observer: CallObserver | None = None,
    ) -> None:
        self.cluster = cluster
        self.plan = plan
        self.method = method
        self.metadata = metadata
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        if streaming:
            self.streaming = True
        if observer is not None:
            self.observer = observer

    def wake(self) -> None:
        """A waiting call should be fed :meth:`on_endpoints`: tells the shell, or leaves ``woken`` for it to find."""
        self.woken = True
        waker = self.waker
        if waker is not None:
            waker()

    @property
    def reselections(self) -> int | None:
        """How often a balancer that names a host the call has been to is asked again; None: until it names another."""
        retry = self.plan.retry
        return None if retry is None else retry.host_selection_retry_max_attempts

    @property
    def used_up(self) -> bool:
        """Whether it failed though it was tried as often as its policy allows, and more than once."""
        policy = self.plan.retry or self.plan.hedging
        count = len(self.attempts) - self._refused
        return policy is not None and 1 < policy.max_attempts <= count and self.state is DONE

    def _expire(self, now: float) -> CallCommands:
        """The deadline passed while nothing was in flight."""
        self.verdict = "the deadline passed"
        if self.deadline is not None and math.isnan(self.deadline):
            self.verdict = INVALID_TIMEOUT.details
            return self._finish(INVALID_TIMEOUT)
        situation = hosts = ""
        if self.state is WAITING:
            situation, hosts = self.cluster.situation(), self.cluster.hosts.describe()
        return self._finish(deadline_exceeded(self.method, self.cluster.name, self._failure, situation, hosts))

    def _unreachable(self, outcome: Outcome, now: float) -> CallCommands:
        """There is no host, and there will be none, or the circuit breaker refuses the attempt. What the last server
        said says more, unless the channel closed."""
        self._broken(outcome, now)
        if self._failure is not None and not self.cluster.closed:
            return self._final(self._failure, outcome.details, now)
        self.verdict = outcome.details
        return self._finish(outcome)

    def _broken(self, outcome: Outcome, now: float) -> None:
        """Tells of a refusal by the circuit breaker, if it is one."""
        if self.observer is not None and self.cluster.breaker.says(outcome):
            self.observer.on_call_event(self, Broken(at=now, why=outcome.details))

    def _final(self, attempt: StartAttempt, why: str, now: float) -> CallCommands:
        """A failure that is not tried again."""
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

    def _drop(self, but: StartAttempt | None = None) -> CallCommands:
        """Cancels what is in flight: its outcomes no longer count."""
        dropped = [a for a in self.attempts if a.outcome is None and not a.dropped and a is not but]
        for attempt in dropped:
            attempt.dropped = True
            self._free(attempt)
        self._flying -= len(dropped)
        return tuple(CancelAttempt(attempt.n) for attempt in dropped)

    def _free(self, attempt: StartAttempt) -> None:
        """Gives its place in the retry budget back, if it holds one."""
        if attempt.holds:
            self.cluster.retries.release(attempt)

    def abandon(self, outcome: Outcome, *, now: float) -> "tuple[StartAttempt, ...]":
        """The call ends with ``outcome``, after an exception was raised between any two lines of its machine, and what
        the machine was doing is left half done. Returns the attempts that are still to be reported.

        Raised it was by a signal handler of the application's; what has been counted is given back.
        """
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

    def details(self, outcome: Outcome) -> str:
        """The details of the error of a call that ended with ``outcome``: the last server's words, untouched. Where the
        deadline passed before a server answered, the words are ours and name method and target."""
        if outcome.code == "DEADLINE_EXCEEDED" and not outcome.answered and not outcome.local:
            words = "Deadline Exceeded" if outcome.error is not None else outcome.details
            return f"{words}: {self.method} on {self.cluster.name!r}"
        return outcome.details

    def explain(self, outcome: Outcome) -> str:
        """What the mesh did for a call that failed, with addresses, as the text of its error."""
        return explanation(self.attempts, outcome, self.details(outcome), self.verdict)
