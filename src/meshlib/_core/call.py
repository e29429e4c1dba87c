"""State machine of one call: attempts, waits, deadline and end.

Inputs are methods that take the time; each returns the commands that the shell performs, in order. An empty result
means: wait for the next input, which may be :meth:`Call.on_timer` at :meth:`Call.next_timer`. Any input is legal at any
time; an obsolete one is ignored. Every :class:`StartAttempt` needs exactly one :meth:`Call.on_outcome`, which alone
decrements the host's in-flight count. One thread at a time feeds a call.
"""

import math

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.budget import LOSS_PATIENCE, LOSS_POLLS, LOSS_SHOWS
from meshlib._core.attempts.retry import Retries
from meshlib._core.call_record import BACKOFF, DONE, FLYING, NEW, WAITING, CallObserver, CallRecord, State
from meshlib._core.commands import ANSWERED, NOTHING, CallCommands, CancelAttempt, StartAttempt
from meshlib._core.events import (
    AttemptEnded,
    AttemptStarted,
    Ejected,
    PickQueued,
    Retrying,
)
from meshlib._core.explanation import COMMITTED, OVER_BUDGET, RETRIES_FULL, THROTTLED
from meshlib._core.health.losses import says_lost
from meshlib._core.host import HostEntry
from meshlib._core.status import OK, Outcome

__all__ = ["Call", "CallCommands", "CallObserver", "State"]


class Call(CallRecord):
    """One call, with or without retries; :class:`~meshlib._core.hedged.HedgedCall` adds hedging."""

    def begin(self, now: float) -> CallCommands:
        """Start the call."""
        if self.state is not NEW:
            return NOTHING
        self.begun = now
        return self._start("first", now)

    def on_endpoints(self, *, now: float) -> CallCommands:
        """Handle changed hosts while the call waits for one, or a closed channel while it waits for anything."""
        self.woken = False
        if self.state is WAITING or (self.state is BACKOFF and self.cluster.closed):
            return self._start(self._why, now)
        return NOTHING

    def on_commit(self, n: int, why: str, *, now: float) -> CallCommands:
        """Commit the call to attempt ``n``: its ``"message"`` or ``"headers"`` reach the application, or its requests
        can no longer be replayed (``"buffer"``).

        Ignored for an attempt that has ended or was dropped; :attr:`committed` names the committed attempt.
        """
        attempt = self.attempts[n - 1]
        if attempt.outcome is not None or attempt.dropped:
            return NOTHING
        if not self.committed or self._commitment == "buffer":
            self._commitment = why
        self.committed = n
        return self._drop(but=attempt)

    def on_reading(self, *, now: float) -> None:
        """The application waits for a message, or for the end: start the attempt timeouts. Called, as is
        :meth:`on_message`, for streams whose plan has a limit."""
        self.reading = True
        for attempt in self.attempts:
            attempt.active = now

    def on_message(self) -> None:
        """The application has its message and waits for none: stop the attempt timeouts."""
        self.reading = False
        for attempt in self.attempts:
            attempt.active = math.inf

    def on_outcome(self, n: int, outcome: Outcome, now: float) -> CallCommands:
        """Attempt ``n`` ended."""
        attempt = self.attempts[n - 1]
        if attempt.seconds is not None:
            raise AssertionError(f"attempt {n} of {self.method} was reported twice")
        seconds = now - attempt.start
        if attempt.outcome is None:
            attempt.outcome = outcome
        else:
            outcome = attempt.outcome
        ejected = self.cluster.report(attempt.host, outcome, seconds, now, attempt)
        if ejected:
            attempt.ejected = ejected
        if self.observer is not None and (self.observer.every_event or outcome.code != "OK"):
            self._tell_end(attempt, outcome, seconds, now)
        if attempt.dropped:
            return NOTHING
        self._flying = flying = self._flying - 1
        if outcome.code != "OK":
            return self._failed(attempt, outcome, now)
        if self.cluster.retries.throttle is not None:
            self.cluster.retries.throttled(ok=True)
        if outcome is OK and n == 1 and not flying:
            self.state = DONE
            return ANSWERED
        return self._finish(outcome, n)

    def on_timer(self, *, now: float) -> CallCommands:
        """The time of :meth:`next_timer` is reached."""
        timer = self.next_timer()
        if timer is None or now < timer:
            return NOTHING
        if self.state is BACKOFF:
            assert self._failure is not None
            return self._resume(self._failure, now)
        if self.state is WAITING:
            return self._expire(now)
        return self._give_up(self.attempts[-1], now)

    def on_cancel(self, outcome: Outcome, *, now: float) -> CallCommands:
        """The caller, or the closing channel, ends the call with ``outcome``."""
        if self.state is DONE:
            return NOTHING
        if self.state is NEW:
            self.begun = now
        return self._finish(outcome)

    def next_timer(self) -> float | None:
        """Monotonic second of the next :meth:`on_timer`, or None."""
        if self.state is BACKOFF:
            return self._resume_at
        if self.state is WAITING:
            return self.deadline
        if self.state is not FLYING:
            return None
        retry = self.plan.retry
        if not self.streaming or retry is None or self.plan.attempt_limit is None:
            return None
        attempt, idle, limit = self.attempts[-1], self.plan.idle, retry.per_attempt_timeout
        timer = math.inf if idle is None else attempt.active + idle
        if limit is not None and self._commitment not in ("message", "headers"):
            timer = min(timer, attempt.active + limit)
        return None if timer == math.inf else timer

    # Start of an attempt.

    def _start(self, why: str, now: float) -> CallCommands:
        """Send the next attempt, or wait for a host."""
        if self.deadline is not None and not now < self.deadline:
            return self._expire(now)
        chosen = self.cluster.pick(self, now)
        if type(chosen) is HostEntry:
            return (self._send(chosen, why, now),)
        if isinstance(chosen, Outcome):
            return self._unreachable(chosen, now)
        if self.observer is not None and self.state is not WAITING:
            self.observer.on_call_event(self, PickQueued(at=now))
        self.state = WAITING
        self._why = why
        return NOTHING

    def _send(self, host: HostEntry, why: str, now: float) -> StartAttempt:
        plan = self.plan
        timeout = None if self.deadline is None else self.deadline - now
        limit = None if self.streaming else plan.attempt_limit
        if limit is not None and (timeout is None or limit < timeout):
            timeout = limit
        if self.attempts:
            count = len(self.attempts)
            attempt = AttemptRecord(count + 1, host, timeout, now)
            attempt.why = why
            attempt.previous = count - self._refused
            self.tried = (*self.tried, host)
            # Either the call or the attempt holds the in-flight count, wherever an exception is raised.
            self.attempts = (*self.attempts, attempt)
            self.picked = None  # uninterrupted
            holder = self if self.holds else self._failure
            if holder is not None and holder.holds:  # uninterrupted
                holder.holds = False  # uninterrupted
                attempt.holds = True  # uninterrupted
            self._flying += 1
        else:
            attempt = AttemptRecord(1, host, timeout, now)
            self.tried = (host,)
            self.attempts = (attempt,)
            self.picked = None  # uninterrupted
            self._flying = 1
        if self.reading:
            attempt.active = now
        self.state = FLYING
        self.waited = False
        if self.cluster.panic:
            attempt.panic = host.endpoint.priority in self.cluster.panic
        observer = self.observer
        if observer is not None and (observer.every_event or why != "first" or attempt.panic):
            address = host.endpoint.address
            started = AttemptStarted(at=now, n=attempt.n, address=address, why=why, panic=attempt.panic)
            attempt.carrier = observer.on_attempt_started(self, started)
        return StartAttempt(attempt)

    def _tell_end(self, attempt: AttemptRecord, outcome: Outcome, seconds: float, now: float) -> None:
        """Notify the observer of the end of an attempt, and of an ejection by it."""
        assert self.observer is not None
        n, address = attempt.n, attempt.host.endpoint.address
        ended = AttemptEnded(at=now, n=n, address=address, code=outcome.code, seconds=seconds)
        self.observer.on_call_event(self, ended)
        if attempt.ejected:
            self.observer.on_call_event(self, Ejected(at=now, n=n, address=address, why=attempt.ejected))

    # Failure of an attempt.

    def _failed(self, attempt: AttemptRecord, outcome: Outcome, now: float) -> CallCommands:
        self._failure = attempt
        if outcome.refused and not self.committed:
            again = self._repick(attempt, now)
            if again is not None:
                return again
        self._free(attempt)
        if self.committed:
            return self._final(attempt, COMMITTED[self._commitment], now)
        if outcome.code == "CANCELLED" and self.cluster.closed:
            return self._final(attempt, "the channel was closed", now)
        return self._again(attempt, outcome, now)

    def _repick(self, attempt: AttemptRecord, now: float) -> CallCommands | None:
        """Retry a refused attempt transparently (gRFC A6): at once, at most once per host, and only while a host is
        ready or the call would wait for one anyway. None: handle it like any failure."""
        refusals = sum(a.host is attempt.host and a.outcome is not None and a.outcome.refused for a in self.attempts)
        if refusals > 1 or not (self.cluster.ready or self.wait_for_ready):
            return None
        if not self._flying:
            self._refused += 1
            return self._start("refused", now)
        host = self.cluster.pick(self, now=now, wait=False)
        if type(host) is not HostEntry:
            if isinstance(host, Outcome):
                self._broken(host, now)
            return None
        self._refused += 1
        return (self._send(host, "refused", now),)

    def _again(self, attempt: AttemptRecord, outcome: Outcome, now: float) -> CallCommands:
        """Apply the retry policy of the method to a failure."""
        policy = self.plan.retry
        if policy is None:
            return self._final(attempt, "retries are disabled", now)
        if self._retries is None:
            self._retries = Retries(policy, self.cluster.rng, self.cluster.note)
        count = len(self.attempts) - self._refused
        decision = self._retries.decide(attempt, outcome, count=count, elapsed=now - self.begun, now=now)
        held_back = self._retries.throttling and self.cluster.retries.throttled(ok=False)
        if isinstance(decision, str):
            return self._final(attempt, decision, now)
        if held_back:
            return self._final(attempt, self.cluster.retries.refuse(THROTTLED, now=now), now)
        return self._back_off(attempt, decision, "retry", now)

    def _back_off(self, attempt: AttemptRecord, delay: float, why: str, now: float) -> CallCommands:
        """Wait ``delay`` for the next attempt, which counts against the budget meanwhile."""
        admitted = self.cluster.retries.acquire(attempt, self)
        if admitted is None:
            return self._final(attempt, self.cluster.retries.refuse(RETRIES_FULL, now=now), now)
        if not admitted:
            # Decided when the back-off ends: by then a lost host is known.
            delay = max(delay, LOSS_SHOWS)
        self.state = BACKOFF
        self._polls = 0
        if self.deadline is not None and now + delay >= self.deadline:
            return self._final(attempt, f"the backoff of {delay:.3f} s would exceed the deadline", now)
        self._resume_at = now + delay
        self._why = why
        if self.observer is not None:
            self.observer.on_call_event(self, Retrying(at=now, n=attempt.n, delay=delay))
        # The channel closed meanwhile: nothing would wake this call.
        return self._start(why, now) if self.cluster.closed else NOTHING

    def _resume(self, attempt: AttemptRecord, now: float) -> CallCommands:
        """End the back-off. A retry beyond the budget is allowed if its host was lost: the budget protects hosts that
        answer with errors, and must not fail the calls of a host that crashed."""
        if not attempt.holds:
            assert attempt.outcome is not None
            cut = says_lost(attempt.outcome)
            lost = self.cluster.lost(attempt.host, since=attempt.start, cut=cut, now=now)
            if not lost and cut and self._may_yet_be_lost(attempt, now):
                self._resume_at = now + LOSS_SHOWS
                return NOTHING
            if not lost or not self.cluster.retries.force(attempt):
                why = self.cluster.retries.refuse(RETRIES_FULL if lost else OVER_BUDGET, now=now)
                return self._final(attempt, why, now)
        return self._start(self._why, now)

    def _may_yet_be_lost(self, attempt: AttemptRecord, now: float) -> bool:
        """Whether there is time left to confirm a lost connection that grpc reported."""
        assert attempt.seconds is not None
        if self.deadline is not None and now + LOSS_SHOWS >= self.deadline:
            return False
        self._polls += 1
        return self._polls < LOSS_POLLS or now + LOSS_SHOWS < attempt.start + attempt.seconds + LOSS_PATIENCE

    def _give_up(self, attempt: AttemptRecord, now: float) -> CallCommands:
        """Time out a stream's attempt that received no message: cancel and drop it."""
        retry = self.plan.retry
        assert retry is not None
        idle = self.plan.idle
        field, limit = "per_attempt_timeout", retry.per_attempt_timeout
        if idle is not None and now >= attempt.active + idle:
            field, limit = "per_attempt_idle_timeout", idle
        attempt.outcome = Outcome("DEADLINE_EXCEEDED", f"no message within {field}={limit} s", answered=False)
        attempt.dropped = True
        self._flying -= 1
        return (CancelAttempt(attempt.n), *self._failed(attempt, attempt.outcome, now))
