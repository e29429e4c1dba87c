"""The driver of one call's machine: performs its commands and feeds it timers, hosts and the ends of attempts.

A call has no task: the ends of attempts, the loop's timers and the cluster's wake-ups each feed the machine and perform
its commands.
"""

import contextvars
import weakref
from functools import partial
from typing import Final

import grpc.aio

from meshlib._aio.attempts import LOCAL_DETAILS, Step
from meshlib._aio.completion import Completion
from meshlib._aio.runtime import ChannelHandle
from meshlib._aio.waiting import Condition, guarded
from meshlib._control.invocation import Invocation
from meshlib._control.timers import TimerHandle, call_at
from meshlib._core.call import CallCommands
from meshlib._core.commands import CancelAttempt, Finish, StartAttempt
from meshlib._core.deadlines import LONGEST, far
from meshlib._core.hedged import machine
from meshlib._core.status import OK, Outcome, local
from meshlib._core.view import CallMesh

__all__ = ["GC_DETAILS", "LOCAL_DETAILS", "Engine"]

GC_DETAILS: Final = "Cancelled upon garbage collection!"
RAISED: Final = local("CANCELLED", "an exception was raised inside the call, for example by a signal handler")
MOST_REPAIRS: Final = 8
"""Maximum repairs after exceptions: one raised each time does not come from a signal handler."""
INSECURE: Final = "Call credentials are only valid on secure channels"
"""grpc.aio's own words."""


class Engine(Completion):
    """One call in flight. Each kind of call defines how an attempt is sent and when it has ended.

    Args:
        lease: the channel handle; held, so that a call in flight keeps the channel alive.
        invocation: the call.
        streaming: the response is a stream.

    Raises:
        grpc.aio.UsageError: the channel is closed, serves another loop, or is in plaintext while the call has
            credentials.
    """

    # Class attributes for state that few calls need, so that the others do not pay for it.

    _todo: list[Step] | None = None
    """The current input and those queued behind it; None between inputs."""
    _timer: TimerHandle | None = None
    _armed: bool = False
    """A timer has been requested before."""
    _condition: Condition | None = None
    _repairs: int = 0
    """Number of repairs after exceptions."""
    _ending: Finish | None = None
    """The machine's final command, if an exception interrupted it."""
    _told: bool = False
    """Telemetry has recorded the end of the call, if it records any."""

    def __init__(self, lease: ChannelHandle, invocation: Invocation, *, streaming: bool) -> None:
        method, timeout, metadata, credentials, wait_for_ready, _ = invocation
        if credentials is not None and lease.settings.config.cluster.credentials is None:
            raise grpc.aio.UsageError(INSECURE)
        self._lease = lease
        self.runtime = runtime = lease.runtime()
        self.loop = runtime.loop
        self._now = now = runtime.now
        self._invocation = invocation
        self.method = method
        self._metadata = metadata
        plan = lease.plans[method.name]
        if timeout is None:
            timeout = plan.stream_timeout if streaming else plan.timeout
        self.call = call = machine(plan)(
            runtime.cluster,
            plan,
            method.name,
            metadata=metadata,
            deadline=None if timeout is None else due if (due := now() + timeout) <= LONGEST else far(now(), timeout),
            wait_for_ready=plan.wait_for_ready if wait_for_ready is None else wait_for_ready,
            streaming=streaming,
        )
        call.waker = self._wake
        self.attempts = {}
        self.context = contextvars.copy_context()

    # The machine.

    def begin(self) -> None:
        """Start the call: an attempt on a connected host starts before this returns."""
        try:
            now = self._now()
            self._metadata = self.runtime.telemetry.call_started(self.call, self._metadata, now)
            self.runtime.calls.add(self)
            self.feed(partial(self.call.begin, now))
        except BaseException:
            self.cut_short()  # the caller gets the exception, and no call
            raise

    def feed(self, step: Step) -> None:
        """Feed the machine one input, and perform its commands and all that follow.

        The machine processes one input at a time. Others that arrive meanwhile are queued: from a signal handler, a
        finalizer, or an attempt that ends while it is started or cancelled.

        A signal handler may also raise between any two lines. That ends the call: see :meth:`cut_short`.
        """
        if self._todo is not None:
            self._todo.append(step)
            return
        self._todo = todo = [step]
        commands: CallCommands = ()
        try:
            for step in todo:  # grows meanwhile
                commands = step()
                for command in commands:
                    if type(command) is StartAttempt:
                        self._start(command.record)
                    elif type(command) is CancelAttempt:
                        self.give_up(command.n)
                    else:
                        self._finish(command.outcome, command.n)
            if self.outcome is None:
                self._arm()
            self._todo = None
            if todo[-1] is not step:  # queued after the loop ended
                self._postpone(todo[todo.index(step) + 1 :])
        except BaseException:  # from a signal handler, or from the observer
            self._todo = None
            self.cut_short(commands)
            raise

    def _postpone(self, steps: list[Step]) -> None:
        """Leave inputs that were queued too late to the event loop."""
        for step in steps:
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(guarded(self.feed, self.cut_short), step)

    def cut_short(self, commands: CallCommands = ()) -> None:
        """End, on the event loop, a call that an exception interrupted and left half done.

        Args:
            commands: the machine's last ones; if they end the call, it ends like that.
        """
        for command in commands:
            if type(command) is Finish:
                self._ending = command
        if self._repairs < MOST_REPAIRS and not self.loop.is_closed():
            self._repairs += 1
            self.loop.call_soon_threadsafe(guarded(lambda _: self.feed(self._abandon), self.cut_short), None)

    def _abandon(self) -> CallCommands:
        """The input that ends a call whose machine or commands were interrupted. It reverts all counts at once, and
        repeats nothing that was done before."""
        call, now = self.call, self._now()
        for attempt in call.abandon(RAISED, now=now):
            self.give_up(attempt.n)
            call.on_outcome(attempt.n, RAISED, now)
        if self.outcome is not None:
            return (Finish(self.outcome, self.last),)
        return (self._ending or Finish(RAISED, 0),)

    @property
    def condition(self) -> Condition:
        """Notified when an attempt starts or ends, and when the call ends."""
        if self._condition is None:
            self._condition = Condition(self.loop)
        return self._condition

    def commit(self, n: int, why: str) -> None:
        """Commit the call to attempt ``n``."""
        self.feed(partial(self.call.on_commit, n, why, now=self._now()))

    def _finish(self, outcome: Outcome, n: int) -> None:
        self.runtime.calls.discard(self)
        # Break the cycles of an ended call. Else its attempt lives until the next cyclic collection, and C-core keeps
        # a connection of a closed channel: a new channel to the same host fails while that backs off.
        self.call.waker = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.outcome = outcome
        self.last = n
        counted = n or self.call.committed
        self.attempts = {counted: self.attempts[counted]} if counted in self.attempts else {}
        self.left()
        self._notify()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = ()
        try:
            if (self.runtime.telemetry.listens or outcome is not OK or len(self.call.attempts) > 1) and not self._told:
                self._told = True
                self.runtime.telemetry.call_ended(self.call, outcome, self._now())  # before any notified task runs
        finally:
            if self._callbacks:
                self._call_back()
        if self.holder is not None and (held := self.holder()) is not None:
            self.holder = weakref.ref(held)

    def _wake(self) -> None:
        """Feed the machine soon, after a change of hosts. The cluster may be in the middle of waking other calls."""
        if not self.loop.is_closed():
            self.loop.call_soon(guarded(self._on_endpoints, self.cut_short), None, context=self.context)

    def _on_endpoints(self, _: object) -> None:
        self.feed(partial(self.call.on_endpoints, now=self._now()))

    def _on_timer(self, _: object) -> None:
        self._timer = None
        self.feed(partial(self.call.on_timer, now=self._now()))

    def _arm(self) -> None:
        at = self.call.next_timer()
        timer = self._timer
        if timer is not None:
            if timer.when() == at:
                return
            timer.cancel()
            self._timer = None
        if at is None:
            return
        if not self._armed:
            # A signal handler may begin a call while the loop sorts its timers.
            self._armed = True
            self.loop.call_soon_threadsafe(guarded(lambda _: self._arm(), self.cut_short), None)
            return
        on_timer = partial(guarded(self._on_timer, self.cut_short), None)
        self._timer = timer = call_at(self.loop, self._now, at, on_timer, self.context)
        if self.outcome is not None:  # ended by a signal handler or a finalizer meanwhile
            timer.cancel()
            self._timer = None

    # Called by the application, on any kind of call.

    def cancel(self, details: str = LOCAL_DETAILS) -> bool:
        """End the call; return False if it has ended already."""
        if self.outcome is not None:
            return False
        self.feed(partial(self.call.on_cancel, local("CANCELLED", details), now=self._now()))
        return True

    def time_remaining(self) -> float | None:
        deadline = self.call.deadline
        return None if deadline is None else max(0.0, deadline - self._now())

    @property
    def mesh(self) -> CallMesh:
        """The mesh's record of the call so far."""
        return CallMesh(self.call, self.outcome)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method.name} {self.outcome or self.call.state.value}>"
