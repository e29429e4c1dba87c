"""A non-blocking call: its machine, its attempts in grpc, and the threads and callbacks that wait for its end.

The application holds a handle and the handle holds the engine. grpc's callbacks, the control thread's timers and the
cluster also hold the engine while they have events for it. None of them holds the handle: its collection cancels the
call, as in grpc.

Several threads feed the machine, one step at a time. A signal handler or a finalizer may do so in the middle of a step:
its step is queued behind the interrupted one (:mod:`meshlib._core.serial`). Commands are performed outside of steps, by
the first thread that takes them, so several threads may perform commands at once.

A signal handler may also raise between any two lines. The control thread then performs the interrupted command; a
machine that was cut short in a step is ended.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from meshlib._adapt.metadata import INVALID_METADATA, valid
from meshlib._control.invocation import Invocation
from meshlib._core.call import CallCommands
from meshlib._core.commands import CallCommand, CancelAttempt, Finish, StartAttempt
from meshlib._core.deadlines import LONGEST, far
from meshlib._core.hedged import machine
from meshlib._core.policy import Plan
from meshlib._core.serial import WorkSerializer
from meshlib._core.status import Outcome, local
from meshlib._sync.attempts import CANCELLED, Attempt
from meshlib._sync.completion import Completion
from meshlib._sync.requests import Requests
from meshlib._sync.runtime import ChannelHandle
from meshlib._sync.waiting import ThreadContext, Timer

__all__ = ["ABANDONED", "CANCELLED", "Attempt", "Engine"]

ABANDONED: Final = local("CANCELLED", "Cancelled upon garbage collection!")
MOST_RESUMPTIONS: Final = 8
"""Maximum resumptions after exceptions: one raised each time does not come from a signal handler."""
RAISED: Final = local("CANCELLED", "an exception was raised inside the call, for example by a signal handler")


class Engine(Completion):
    """One call.

    Args:
        lease: the channel handle, which is not collected before the call has ended.
        plan: the policies of its method.
        invocation: the call.
        request: the request as bytes, or the stream of them.

    Raises:
        ValueError: the channel is closed, or the metadata is not a sequence of pairs.
        TypeError: the metadata is of a wrong type.
    """

    _resumptions = 0
    """Number of resumptions after exceptions."""

    def __init__(self, lease: ChannelHandle, plan: Plan, invocation: Invocation, request: bytes | Requests) -> None:
        method, timeout, given, _, wait_for_ready, _ = invocation
        streaming = method.kind.endswith("stream")
        if timeout is None:
            timeout = plan.stream_timeout if streaming else plan.timeout
        runtime = lease.runtime()
        started = runtime.now()
        deadline = None if timeout is None else started + timeout
        if timeout is not None and not timeout <= LONGEST:
            deadline = far(started, timeout)
        call = machine(plan)(
            runtime.cluster,
            plan,
            method.name,
            metadata=given,
            deadline=deadline,
            wait_for_ready=plan.wait_for_ready if wait_for_ready is None else wait_for_ready,
            streaming=streaming,
        )
        self._valid = valid(given)
        metadata = runtime.telemetry.call_started(call, given, runtime.now())
        super().__init__(runtime, call, invocation, request, metadata)
        self._lease: ChannelHandle | None = lease
        self._serializer = WorkSerializer(runtime.clock)
        self._commands: deque[CallCommand] = deque()
        """Commands still to be performed."""
        self._ending: Finish | None = None
        """The machine's final command."""
        self._told = False
        """Telemetry has recorded the end of the call."""
        self._timer: Timer | None = None

    # Called by the handle.

    def begin(self) -> None:
        """Start the call, on the caller's thread.

        Raises:
            Exception: raised by grpc when the first attempt started.
        """
        try:
            self.runtime.process.live.add(self)
            self.call.waker = partial(self._feed, self.call.on_endpoints, ThreadContext.CONTROL)
            if not self._valid:
                self.cancel(INVALID_METADATA)
                return
            self._run(self.call.begin, ThreadContext.USER, raising=True)
        except BaseException:
            self.runtime.soon(self._give_up)  # the caller gets the exception, and no handle
            raise

    def cancel(self, outcome: Outcome, thread: ThreadContext = ThreadContext.USER) -> bool:
        """End the call with ``outcome``; False if it has ended already."""
        if self.outcome is not None:
            return False
        return self._run(partial(self.call.on_cancel, outcome), thread)

    def abandon(self) -> None:
        """Cancel the call soon: its handle was collected, on any thread, between any two instructions. No effect in
        a forked child or at interpreter exit."""
        if self.outcome is None:
            self.runtime.soon(partial(self.cancel, ABANDONED, ThreadContext.CONTROL))

    # Called by streams.

    def commit(self, n: int, why: str) -> bool:
        """Commit the call to attempt ``n``; False if that is no longer possible."""
        attempt = self._attempts[n]

        def step() -> bool:
            if not attempt.stands:
                return False
            self._commands += self._settled(self.call.on_commit(n, why, now=self.runtime.now()))
            return True

        try:
            stands = self._serializer.run(step, attempt.stands)
            self.monitor.notify()
            if stands and isinstance(self._request, Requests):
                self._request.committed(n)
            self._perform(ThreadContext.USER)
        except BaseException:
            self.runtime.soon(self._resume)
            raise
        return stands

    def reading(self) -> None:
        """Note that the application waits for a message of a stream whose plan has a limit."""
        self._serializer.run(self._on_reading, None)
        if self._commands:  # from steps that other threads left to this one
            self._perform(ThreadContext.USER)

    def _on_reading(self) -> None:
        self.call.on_reading(now=self.runtime.now())
        due = self.call.next_timer()
        # An earlier timer stays: it will do nothing but set the next one.
        if due is not None and (self._due is None or due < self._due):
            self._arm(due)

    def read(self) -> None:
        """Note that the application has its message."""
        self._serializer.run(self.call.on_message, None)
        if self._commands:
            self._perform(ThreadContext.USER)

    def fail(self, outcome: Outcome) -> None:
        """End the call: the application's requests failed."""
        self.cancel(outcome)

    # The machine.

    def _feed(self, step: Callable[..., CallCommands], thread: ThreadContext) -> None:
        self._run(step, thread)

    def _run(self, step: Callable[..., CallCommands], thread: ThreadContext, *, raising: bool = False) -> bool:
        """Feed the machine and perform its commands; with ``raising``, raise the exception of an attempt's start.

        Returns whether the machine gave commands, as far as is known yet.
        """
        try:
            found = self._serializer.run(partial(self._on_step, step), True)
            self.monitor.notify()
            self._perform(thread, raising=raising)
        except BaseException:
            if not raising:
                self.runtime.soon(self._resume)
            raise
        return found

    def _on_step(self, step: Callable[..., CallCommands]) -> bool:
        commands = self._settled(step(now=self.runtime.now()))
        self._commands += commands
        return bool(commands)

    def _give_up(self) -> None:
        """End, on the control thread, a call whose start was cut short."""
        self.cancel(ABANDONED, ThreadContext.CONTROL)
        self._resume()

    def _resume(self, report: tuple[Attempt, Outcome] | None = None) -> None:
        """Finish, on the control thread, the steps that an exception cut short.

        Args:
            report: the end of an attempt that the machine may not have recorded.
        """
        self._resumptions += 1
        if self._resumptions > MOST_RESUMPTIONS:
            return
        if self._serializer.torn:
            self._serializer.run(self._mend, None, patient=False)
        elif report is not None and report[0].record.seconds is None:
            self._run(partial(self.call.on_outcome, report[0].record.n, report[1]), ThreadContext.CONTROL)
        for attempt in list(self._attempts.values()):
            if attempt.ended and not attempt.readers:
                self.report(attempt, ThreadContext.CONTROL)
            # Its command may have been taken and not performed; a performed one is not repeated.
            elif not attempt.aside and not attempt.reported:
                self._commands.append(StartAttempt(attempt.record))
            elif attempt.record.dropped and not attempt.cancelled:
                self._commands.append(CancelAttempt(attempt.record.n))
        if self._ending is not None and self.outcome is None:
            self._commands.append(self._ending)
        self._perform(ThreadContext.CONTROL)
        self.monitor.notify()

    def _mend(self) -> None:
        """End the call after its machine was cut short in a step."""
        self._serializer.torn = False
        now = self.runtime.now()
        for record in self.call.abandon(RAISED, now=now):
            attempt = self._attempts.get(record.n)
            if attempt is None or attempt.call is None or attempt.reported:
                if attempt is not None:
                    attempt.mended = attempt.cancelled = True
                self.call.on_outcome(record.n, RAISED, now=now)
            else:
                self._commands.append(CancelAttempt(record.n))
        self._ending = Finish(RAISED, 0)

    def _settled(self, commands: CallCommands) -> CallCommands:
        """Register attempts, the end and the timer, as part of a step."""
        for command in commands:
            if type(command) is StartAttempt:
                self._attempts[command.record.n] = Attempt(command.record)
            elif type(command) is Finish:
                self._ending = command
        due = self.call.next_timer()
        if due != self._due:
            self._arm(due)
        return commands

    def _arm(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = None if due is None else self.runtime.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._run(self._expired, ThreadContext.CONTROL)

    def _expired(self, *, now: float) -> CallCommands:
        self._due = self._timer = None
        return self.call.on_timer(now=now)

    def _perform(self, thread: ThreadContext, *, raising: bool = False) -> None:
        """Perform the pending commands."""
        while self._commands:
            try:
                command = self._commands.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                error = self._one(command, thread)
            except BaseException:
                self._commands.appendleft(command)  # its performed parts are not repeated
                raise
            if error is not None and raising:
                self.cancel(CANCELLED)  # a policy might retry while the caller gets the exception
                raise error
            if error is not None and not isinstance(error, Exception):
                raise error  # KeyboardInterrupt

    def _one(self, command: CallCommand, thread: ThreadContext) -> BaseException | None:
        if type(command) is StartAttempt:
            return self._launch(self._attempts[command.record.n], thread)
        if type(command) is CancelAttempt:
            attempt = self._attempts.get(command.n)
            if attempt is None:  # an exception cut short the step that began it
                self._run(partial(self.call.on_outcome, command.n, RAISED), thread)
            else:
                self._stop(attempt, thread)
        else:
            assert type(command) is Finish
            self._finish(command, thread)
        return None

    def _finish(self, command: Finish, thread: ThreadContext) -> None:
        if thread is ThreadContext.CONTROL and self.runtime.telemetry.ends_span(self.call):
            self._aside(lambda: self._finish(command, ThreadContext.ASIDE))
            return
        call, outcome = self.call, command.outcome
        if self.outcome is None:
            if not self._told:
                self._told = True
                self.runtime.telemetry.call_ended(call, outcome, self.runtime.now(), thread is not ThreadContext.USER)
            call.waker = self._lease = None
            if isinstance(self._request, Requests):
                self._request.close()
            speaker = self._attempts.get(command.n or call.committed)
            self.source = None if speaker is None else speaker.call
            self.outcome = outcome
        self.monitor.notify()
        if not self._callbacks:
            return
        if thread is ThreadContext.GRPC or thread is ThreadContext.ASIDE:
            self._call_back()
        else:
            self._aside(self._call_back)
