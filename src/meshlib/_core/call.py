"""The machine of one call: its attempts, waits, deadline and end.

Inputs are methods told the time; each returns the commands a shell is to perform, in order. An empty answer means: wait
for the next input, which may be :meth:`Call.on_timer` at :meth:`Call.next_timer`. Any input is legal at any time: what no
longer matters is ignored, and every :class:`StartAttempt` is answered by exactly one :meth:`Call.on_outcome`, which alone
frees its place at the host. One thread at a time feeds a call.
"""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, final

from meshlib._core.attempts.retry import AttemptState, backoff, refusal
from meshlib._core.commands import CallCommand, CancelAttempt, Finish, StartAttempt
from meshlib._core.events import AttemptEnded, AttemptStarted, CallObserver, NotRetried, Retrying, Waiting
from meshlib._core.policy import Plan
from meshlib._core.status import Outcome, local

if TYPE_CHECKING:
    from meshlib._core.cluster import Cluster
    from meshlib._core.host import Host

__all__ = ["Call", "State"]

Commands = tuple[CallCommand, ...]
NOTHING: Final[Commands] = ()

TIMER_SLACK: Final = 0.005
"""An attempt that ended DEADLINE_EXCEEDED this close to its own limit, in seconds, was ended by that limit: grpc rounds
deadlines to the millisecond, so its clock and ours may differ by a little."""


LOSS_SHOWS: Final = 0.005
"""Seconds within which the connection of a host that died shows it; its failed calls are told a little earlier."""


class State(Enum):
    """Where a call is."""

    NEW = "new"
    WAITING = "waiting for a host"
    FLYING = "in flight"
    BACKOFF = "backing off"
    DONE = "done"


@final
class Call:
    """One call. It is also what a picker is told of it (``PickInfo``): nothing is allocated for a pick.

    Args:
        cluster: the service it is for.
        plan: the policies of its method.
        method: the full method name.
        metadata: the caller's request metadata.
        deadline: monotonic second by which it must end, or None.
        wait_for_ready: wait for a host rather than fail while none can be reached.
        streaming: the response is a stream, whose attempts outlive ``per_attempt_timeout`` once a message has come.
        observer: hears its events.
    """

    __slots__ = (
        "_budgeted",
        "_flying",
        "_hedge_at",
        "_refused",
        "_resume_at",
        "_retries",
        "attempts",
        "begun",
        "cluster",
        "committed",
        "deadline",
        "hash",
        "metadata",
        "method",
        "observer",
        "plan",
        "span",
        "state",
        "streaming",
        "tried",
        "verdict",
        "wait_for_ready",
        "waker",
        "woken",
    )

    def __init__(
        self,
        cluster: "Cluster",
        plan: Plan,
        method: str,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        deadline: float | None = None,
        wait_for_ready: bool = False,
        streaming: bool = False,
        observer: CallObserver | None = None,
    ) -> None:
        self.cluster = cluster
        self.plan = plan
        self.method = method
        self.metadata = metadata
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        self.streaming = streaming
        self.observer = observer
        self.hash: int | None = None
        self.waker: Callable[[], None] | None = None
        self.woken = False
        self.state = State.NEW
        self.attempts: list[StartAttempt] = []
        self.tried: list["Host"] = []
        self.committed = 0
        self.verdict = ""
        """Why the last failure was not tried again, in words."""
        self.begun = 0.0
        self.span: object = None
        """Whatever telemetry keeps for the call."""
        self._flying = 0
        self._refused = 0
        self._retries = 0
        self._budgeted = False
        self._resume_at = math.inf
        self._hedge_at = math.inf

    # Inputs.

    def begin(self, *, now: float) -> Commands:
        """The call starts."""
        self.begun = now
        return self._start("first", now)

    def on_endpoints(self, *, now: float) -> Commands:
        """Hosts changed while the call waits for one, or the channel closed while it waits for anything."""
        if self.state is State.BACKOFF and self.cluster.closed:
            return self._start("retry", now)
        if self.state is not State.WAITING:
            return NOTHING
        if self.deadline is not None and now >= self.deadline:
            return self._expire(now)
        return self._start(self._next_why(), now)

    def on_commit(self, n: int, why: str, *, now: float) -> Commands:
        """Attempt ``n`` is the one whose answer counts: something of it reached the application, or its requests can no
        longer be replayed.

        Args:
            n: the attempt.
            why: ``"message"``, ``"headers"`` or ``"buffer"``, for the explanation of a failure that follows.
            now: monotonic seconds.
        """
        if self.state is State.DONE or self.committed:
            return NOTHING
        self.committed = n
        self.verdict = {
            "message": "a message had reached the application",
            "headers": "the response headers had reached the application",
            "buffer": "the requests no longer fitted the replay buffer",
        }[why]
        self._hedge_at = math.inf
        return self._cancel_all(but=n)

    def on_outcome(self, n: int, outcome: Outcome, *, now: float) -> Commands:
        """Attempt ``n`` ended."""
        attempt = self.attempts[n - 1]
        if attempt.outcome is not None and attempt.seconds is not None:
            raise AssertionError(f"attempt {n} of {self.method} reported twice")
        attempt.seconds = seconds = now - attempt.start
        given_up = attempt.outcome
        if given_up is None:
            attempt.outcome = outcome
            self._flying -= 1
        else:
            outcome = given_up
        self.cluster.report(attempt.host, outcome, seconds, now=now)
        if self.observer is not None:
            address = attempt.host.endpoint.address
            self.observer.on_call_event(
                self, AttemptEnded(at=now, n=n, address=address, code=outcome.code, seconds=seconds)
            )
        if given_up is not None or self.state is State.DONE:
            return NOTHING
        if outcome.code == "OK":
            return (*self._cancel_all(but=n), *self._finish(outcome, n))
        return self._failed(attempt, outcome, now)

    def on_timer(self, *, now: float) -> Commands:
        """The time of :meth:`next_timer` has come."""
        if self.state is State.BACKOFF and now >= self._resume_at:
            return self._resume(now)
        if self.state is State.WAITING and self.deadline is not None and now >= self.deadline:
            return self._expire(now)
        if self.state is not State.FLYING:
            return NOTHING
        if now >= self._hedge_at:
            return self._hedge(now)
        for attempt in self.attempts:
            limit = self._limit(attempt)
            if now >= limit:
                return self._give_up(attempt, now)
        return NOTHING

    def on_cancel(self, outcome: Outcome, *, now: float) -> Commands:
        """The caller, or the closing channel, ends the call with ``outcome``."""
        if self.state is State.DONE:
            return NOTHING
        return (*self._cancel_all(), *self._finish(outcome, 0))

    def wake(self) -> None:
        """A waiting call should be fed :meth:`on_endpoints`: tells the shell, or leaves ``woken`` for it to find."""
        self.woken = True
        waker = self.waker
        if waker is not None:
            waker()

    def next_timer(self) -> float | None:
        """The monotonic second of the next :meth:`on_timer`, or None."""
        if self.state is State.BACKOFF:
            return self._resume_at
        if self.state is State.WAITING:
            return self.deadline
        if self.state is not State.FLYING:
            return None
        timer = self._hedge_at
        if self.streaming and not self.committed:
            timer = min([timer, *map(self._limit, self.attempts)])
        return None if timer == math.inf else timer

    # What happens.

    def _start(self, why: str, now: float) -> Commands:
        """Sends the next attempt, if a host can be had."""
        chosen = self.cluster.pick(self, now=now)
        if chosen is None:
            self.state = State.WAITING
            if self.observer is not None:
                self.observer.on_call_event(self, Waiting(at=now))
            return NOTHING
        if isinstance(chosen, Outcome):
            return self._finish(chosen, 0)
        return (self._send(chosen, why, now),)

    def _send(self, host: "Host", why: str, now: float) -> StartAttempt:
        timeout = None if self.deadline is None else self.deadline - now
        retry = self.plan.retry
        if retry is not None and retry.per_attempt_timeout is not None and not self.streaming:
            timeout = retry.per_attempt_timeout if timeout is None else min(timeout, retry.per_attempt_timeout)
        attempt = StartAttempt(len(self.attempts) + 1, host, timeout, why, now, len(self.attempts) - self._refused)
        self.attempts.append(attempt)
        self.tried.append(host)
        self.state = State.FLYING
        self._flying += 1
        if self.plan.hedging is not None and len(self.attempts) < self.plan.hedging.max_attempts:
            self._hedge_at = now + self.plan.hedging.hedging_delay
        if self.observer is not None:
            self.observer.on_call_event(
                self, AttemptStarted(at=now, n=attempt.n, address=host.endpoint.address, why=why)
            )
        return attempt

    def _failed(self, attempt: StartAttempt, outcome: Outcome, now: float) -> Commands:
        """Attempt ended in failure, and the call has not."""
        if outcome.refused and not self.committed and self._may_repick(attempt):
            self._refused += 1
            return self._start("refused", now)
        if self.committed:
            return self._final(attempt, outcome, self.verdict, now)
        if self.plan.hedging is not None:
            return self._hedge_failed(attempt, outcome, now)
        if self.plan.retry is None:
            return self._final(attempt, outcome, "retries are off", now)
        return self._retry(attempt, outcome, now)

    def _retry(self, attempt: StartAttempt, outcome: Outcome, now: float) -> Commands:
        policy = self.plan.retry
        assert policy is not None
        timed_out = self._timed_out(attempt, outcome, now)
        if self._budgeted:
            self._budgeted = False
            self.cluster.release_retry()
        state = self._attempt_state(outcome, now)
        why = refusal(policy, outcome, timed_out=timed_out, state=state)
        if why is not None:
            return self._final(attempt, outcome, why, now)
        if outcome.pushback is not None:
            # "If the server pushes back ... the backoff sequence is reset": gRFC A6.
            self._retries = 0
            delay = outcome.pushback
        else:
            self._retries += 1
            delay = backoff(policy, self._retries, rng=self.cluster.rng, state=lambda: state)
        self._budgeted = self.cluster.acquire_retry(self)
        if not self._budgeted:
            # Judged when the back-off ends: by then it shows whether the host was lost.
            delay = max(delay, LOSS_SHOWS)
        if self.deadline is not None and now + delay >= self.deadline:
            return self._final(attempt, outcome, f"the back-off of {delay:.3f} s would end past the deadline", now)
        self.woken = False
        self.state = State.BACKOFF
        self._resume_at = now + delay
        if self.observer is not None:
            self.observer.on_call_event(self, Retrying(at=now, n=attempt.n, delay=delay))
        return NOTHING

    def _resume(self, now: float) -> Commands:
        """The back-off is over. A retry beyond the budget goes ahead if its host is gone: the budget keeps hosts that
        answer with errors from being hammered, and must not fail the calls that a host took with it when it died."""
        attempt = self.attempts[-1]
        if not self._budgeted and not self.cluster.gone(attempt.host, now=now):
            self._budgeted = self.cluster.acquire_retry()
            if not self._budgeted:
                self.cluster.refuse_retry()
                assert attempt.outcome is not None
                return self._final(attempt, attempt.outcome, "the retry budget of the channel is used up", now)
        return self._start("retry", now)

    def _hedge(self, now: float) -> Commands:
        """Time for the next copy; without a host or budget for it the copies under way are all there will be."""
        self._hedge_at = math.inf
        if not self.cluster.acquire_retry():
            return NOTHING
        host = self.cluster.pick(self, now=now, wait=False)
        if host is None or isinstance(host, Outcome):
            self.cluster.release_retry()
            return NOTHING
        if self._budgeted:
            self.cluster.release_retry()
        self._budgeted = True
        return (self._send(host, "hedge", now),)

    def _hedge_failed(self, attempt: StartAttempt, outcome: Outcome, now: float) -> Commands:
        policy = self.plan.hedging
        assert policy is not None
        forbidden = outcome.pushback is not None and outcome.pushback < 0
        if outcome.code not in policy.non_fatal_status_codes:
            return (*self._cancel_all(), *self._final(attempt, outcome, f"{outcome.code} is fatal to a hedge", now))
        if forbidden:
            self._hedge_at = math.inf
        elif outcome.pushback is not None and self._hedge_at < math.inf:
            self._hedge_at = now + outcome.pushback
        elif len(self.attempts) < policy.max_attempts:
            started = self._hedge(now)
            if started:
                return started
        if self._flying or self._hedge_at < math.inf:
            return NOTHING
        return self._final(attempt, outcome, "all hedges failed", now)

    def _give_up(self, attempt: StartAttempt, now: float) -> Commands:
        """A stream's attempt brought no message within ``per_attempt_timeout``: it no longer counts."""
        assert self.plan.retry is not None
        limit = self.plan.retry.per_attempt_timeout
        outcome = Outcome("DEADLINE_EXCEEDED", f"no message within per_attempt_timeout of {limit} s")
        attempt.outcome = outcome
        self._flying -= 1
        return (CancelAttempt(attempt.n), *self._failed(attempt, outcome, now))

    def _expire(self, now: float) -> Commands:
        """The deadline passed while the call waited for a host."""
        last = next((a.outcome for a in reversed(self.attempts) if a.outcome is not None), None)
        after = f"; last attempt: {last.code} {last.details}" if last is not None else ""
        details = f"Deadline Exceeded: {self.cluster.situation(now=now)}{after}"
        return self._finish(local("DEADLINE_EXCEEDED", details), 0)

    def _final(self, attempt: StartAttempt, outcome: Outcome, why: str, now: float) -> Commands:
        """A failure that is not tried again."""
        self.verdict = why
        if self.observer is not None:
            self.observer.on_call_event(self, NotRetried(at=now, n=attempt.n, why=why))
        return self._finish(outcome, attempt.n)

    def _finish(self, outcome: Outcome, n: int) -> Commands:
        if self.state is State.WAITING or self.state is State.BACKOFF:
            self.cluster.leave(self)
        self.state = State.DONE
        if self._budgeted:
            self._budgeted = False
            self.cluster.release_retry()
        return (Finish(outcome, n),)

    def _cancel_all(self, but: int = 0) -> Commands:
        if self._flying <= (1 if but else 0):
            return NOTHING
        return tuple(CancelAttempt(a.n) for a in self.attempts if a.outcome is None and a.n != but)

    # What is known.

    def _limit(self, attempt: StartAttempt) -> float:
        """When a stream's attempt is given up unless a message comes first."""
        retry = self.plan.retry
        if not self.streaming or self.committed or attempt.outcome is not None:
            return math.inf
        if retry is None or retry.per_attempt_timeout is None:
            return math.inf
        return attempt.start + retry.per_attempt_timeout

    def _timed_out(self, attempt: StartAttempt, outcome: Outcome, now: float) -> bool:
        """Whether ``per_attempt_timeout`` ended the attempt, rather than the deadline of the call or the server."""
        retry = self.plan.retry
        if outcome.code != "DEADLINE_EXCEEDED" or retry is None or retry.per_attempt_timeout is None:
            return False
        if self.deadline is not None and now >= self.deadline:
            return False
        return now - attempt.start >= retry.per_attempt_timeout - TIMER_SLACK

    def _may_repick(self, attempt: StartAttempt) -> bool:
        """A refused attempt is sent again at once, at most once per host (gRFC A6 transparent retry), while there is a
        host that looks ready."""
        refusals = sum(1 for a in self.attempts if a.host is attempt.host and a.outcome is not None and a.outcome.refused)
        return refusals <= 1 and self.cluster.ready > 0

    def _next_why(self) -> str:
        return "retry" if self.attempts else "first"

    def _attempt_state(self, outcome: Outcome, now: float) -> AttemptState:
        return AttemptState(
            outcome,
            attempt_number=len(self.attempts) - self._refused,
            seconds_since_start=now - self.begun,
            idle_for=0.0,
            upcoming_sleep=0.0,
        )

    def explain(self, outcome: Outcome) -> str:
        """What the mesh did for a call that failed after several attempts, as the details of its error."""
        hosts = len({id(host) for host in self.tried})
        last = self.attempts[-1]
        return (
            f"{outcome.code} after {len(self.attempts)} attempt{'s' * (len(self.attempts) > 1)} on "
            f"{hosts} endpoint{'s' * (hosts > 1)} ({self.verdict}); "
            f"last: {last.host.endpoint.address} {outcome.details}"
        )

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.state.value} {self.attempts!r}>"
