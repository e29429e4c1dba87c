"""A call that blocks nobody: its machine, the attempts that grpc runs for it, and those who wait for its end.

The application holds a handle, the handle holds the engine, and grpc's callbacks, the control thread's timers and the
cluster hold the engine while they have something to tell it. None of them holds the handle: collecting that cancels the
call, as it does with grpc's own.

Several threads feed the machine, one step at a time, and in the middle of any of them a signal handler or a finalizer
may do so too: its step is then left to the one beneath (:mod:`meshlib._core.serial`). What the machine commands is
performed outside of steps, by whichever thread comes first, so several may perform at once; an attempt is therefore
marked before it is touched (cancelled while it starts, reported once).

A signal handler may also raise between any two lines. What was about to be done is then done by the control thread; a
machine that was cut short in a step is ended.
"""

import contextvars
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any, Final, Protocol, TypeVar, final

import grpc

from meshlib._adapt import grpcio, outcomes
from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.grpcio import let_go
from meshlib._adapt.metadata import INVALID_METADATA, Metadata, for_attempt, valid
from meshlib._control.exits import threadless
from meshlib._control.methods import Method
from meshlib._control.shortage import short_of
from meshlib._core.call import CallCommands
from meshlib._core.cluster import CLOSED
from meshlib._core.commands import CallCommand, CancelAttempt, Finish, StartAttempt
from meshlib._core.deadlines import LONGEST, far
from meshlib._core.explanation import deadline_exceeded
from meshlib._core.hedged import machine
from meshlib._core.policy import Plan
from meshlib._core.serial import WorkSerializer
from meshlib._core.status import OK, Outcome, local
from meshlib._sync.control import gate
from meshlib._sync.requests import Requests
from meshlib._sync.runtime import INSIDE_LOOP, ChannelHandle
from meshlib._sync.waiting import Monitor, ThreadContext, Timer

__all__ = ["ABANDONED", "CANCELLED", "Attempt", "Engine"]

T = TypeVar("T")

_log = DeferredLogger("meshlib")

CANCELLED: Final = local("CANCELLED", "Locally cancelled by application!")
CANCELLED_HERE: Final = Outcome("CANCELLED", "Locally cancelled by application!", local=True)
"""The end of an attempt that was cancelled here; a server may have seen it."""
ABANDONED: Final = local("CANCELLED", "Cancelled upon garbage collection!")
MOST_RESUMPTIONS: Final = 8
"""How often a call is taken up again after exceptions: what raises each time is no signal handler."""
LATE: Final = 0.5
"""Seconds after its deadline at which a thread that waits for a call ends it, if grpc does not."""
RAISED: Final = local("CANCELLED", "an exception was raised inside the call, for example by a signal handler")


class GrpcCall(Protocol):
    """What is used of the object that grpc gives for an attempt."""

    def code(self) -> Any: ...
    def details(self) -> Any: ...
    def initial_metadata(self) -> Any: ...
    def trailing_metadata(self) -> Any: ...
    def cancel(self) -> Any: ...
    def done(self) -> bool: ...
    def result(self) -> Any: ...
    def add_done_callback(self, fn: Callable[[Any], None]) -> None: ...
    def __next__(self) -> Any: ...


@final
class Attempt:
    """What the shell keeps of an attempt, beside the machine's record of it."""

    __slots__ = ("aside", "call", "cancelled", "command", "ended", "mended", "readers", "reported", "starter", "target")

    def __init__(self, command: StartAttempt) -> None:
        self.command = command
        self.call: GrpcCall | None = None
        """grpc's, once it has been started."""
        self.aside = False
        """It is counted as one that no thread is blocked in."""
        self.cancelled = False
        self.ended = False
        """grpc says it has ended; a reader may have yet to say what it found before."""
        self.mended = False
        """The machine has been told of its end, after an exception cut a step short; it is not to be sent any more."""
        self.readers = 0
        """Threads inside its ``next()``."""
        self.reported = False
        self.target = ""
        """Where it was sent: its host may have another connection by the time it ends, or none."""
        self.starter: tuple[int, ThreadContext] | None = None
        """The thread that is starting it, to tell whether grpc's callback comes on that one."""

    @property
    def stands(self) -> bool:
        """Whether its answer may still count."""
        return not self.reported and self.command.outcome is None and not self.command.dropped


class Engine:
    """One call.

    Args:
        lease: of the channel, which is not collected before the call has ended.
        method: what is called.
        plan: its policies.
        request: the request as bytes, or the stream of them.
        timeout: seconds; None: the policy's.
        metadata: the application's.
        credentials: of the call.
        wait_for_ready: None: the policy's.
        compression: of the call.

    Raises:
        ValueError: the channel is closed, or the metadata is no sequence of pairs.
        TypeError: the metadata is of a wrong type.
    """

    _resumptions = 0
    """How often the call was taken up again after an exception."""

    def __init__(
        self,
        lease: ChannelHandle,
        method: Method,
        plan: Plan,
        request: bytes | Requests,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> None:
        streaming = method.kind.endswith("stream")
        if timeout is None:
            timeout = plan.stream_timeout if streaming else plan.timeout
        runtime = lease.runtime()
        started = runtime.now()
        deadline = None if timeout is None else started + timeout
        if timeout is not None and not timeout <= LONGEST:
            deadline = far(started, timeout)
        self.call = machine(plan)(
            runtime.cluster,
            plan,
            method.name,
            metadata=metadata,
            deadline=deadline,
            wait_for_ready=plan.wait_for_ready if wait_for_ready is None else wait_for_ready,
            streaming=streaming,
        )
        self.call.begun = started
        self.call.reading = not streaming
        self.runtime = runtime
        self._lease: ChannelHandle | None = lease
        self.outcome: Outcome | None = None
        """How the call ended, from then on."""
        self.source: GrpcCall | None = None
        """The attempt that speaks for the call, once it has ended."""
        self.monitor = Monitor(runtime.clock)
        self._serializer = WorkSerializer(runtime.clock)
        self._commands: deque[CallCommand] = deque()
        """What is still to be performed."""
        self._ending: Finish | None = None
        """How the machine has the call end."""
        self._method = method
        self._request = request
        self._valid = valid(metadata)
        self._metadata = runtime.telemetry.call_started(self.call, metadata, runtime.now())
        self._credentials = credentials
        self._compression = compression
        self._context = contextvars.copy_context()
        """The caller's, for attempts that are started on other threads."""
        self._attempts: dict[int, Attempt] = {}
        self._callbacks: deque[Callable[[], None]] = deque()
        """Each is called by whoever takes it out."""
        self._told = False
        """Telemetry knows that the call has ended."""
        self._timer: Timer | None = None
        self._due: float | None = None

    # What the handle does.

    def begin(self) -> None:
        """Starts the call, on the caller's thread.

        Raises:
            Exception: what grpc raised at the invocation of the first attempt.
        """
        try:
            self.runtime.process.live.add(self)
            self.call.waker = partial(self._feed, self.call.on_endpoints, ThreadContext.CONTROL)
            if not self._valid:
                self.cancel(INVALID_METADATA)
                return
            self._run(self.call.begin, ThreadContext.USER, raising=True)
        except BaseException:
            self.runtime.soon(self._give_up)  # the caller gets what was raised, and no handle
            raise

    def cancel(self, outcome: Outcome, place: ThreadContext = ThreadContext.USER) -> bool:
        """Ends the call with ``outcome``; False if it has ended already."""
        if self.outcome is not None:
            return False
        return self._run(partial(self.call.on_cancel, outcome), place)

    def abandon(self) -> None:
        """The handle was collected. That may happen on any thread at any point of it, so this only has the call
        cancelled soon; in the child of a fork, and at the end of the interpreter, nothing is done at all."""
        if self.outcome is None:
            self.runtime.soon(partial(self.cancel, ABANDONED, ThreadContext.CONTROL))

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until the call has ended; False if it has not after ``timeout`` seconds."""
        if timeout is not None and not timeout <= LONGEST:
            timeout = None  # as grpc, which waits in steps: no clock of the system takes as much
        if self.outcome is not None:
            return True
        deadline = self.call.deadline
        left = None if deadline is None else max(0.0, deadline - self.runtime.now()) + LATE
        if left is None or (timeout is not None and timeout <= left):
            return self.wait_for(lambda: self.outcome, timeout) is not None
        if self.wait_for(lambda: self.outcome, left) is None:
            # grpc's thread that would say so waits for a thread that is beneath this one.
            self.cancel(self._late())
        return self.outcome is not None

    def wait_for(self, ready: Callable[[], T | None], timeout: float | None = None) -> T | None:
        """Blocks until ``ready()`` returns something, which is returned; None after ``timeout`` seconds."""
        if not self.runtime.clock.inside_loop:
            return self.monitor.wait_for(ready, timeout)
        # Nobody runs the timers of the call but this thread.
        end = math.inf if timeout is None else self.runtime.now() + timeout
        while True:
            due = math.inf if self._due is None else self._due
            until = min(end, due)
            if until == math.inf and ready() is None and self._idle():
                self.cancel(INSIDE_LOOP)
            turn = partial(self._turn, ready, self._due, until == math.inf)
            left = None if until == math.inf else max(0.0, until - self.runtime.now())
            self.monitor.wait_for(turn, left)
            found = ready()
            if found is not None or self.runtime.now() >= end:
                return found
            if self._due is not None and self.runtime.now() >= self._due:
                self._run(self._expired, ThreadContext.USER)

    def _turn(self, ready: Callable[[], object], due: float | None, endless: bool) -> object:
        """Something, if the wait is over or has another end than before."""
        return True if ready() is not None or self._due != due or (endless and self._idle()) else None

    def _idle(self) -> bool:
        """Whether no attempt is under way that could end the call."""
        return all(attempt.reported for attempt in list(self._attempts.values()))

    def _late(self) -> Outcome:
        """The end of a call whose deadline passed while nobody said how its attempt ended."""
        call = self.call
        return deadline_exceeded(call.method, call.cluster.name, None, "grpc has not said how the call ended", "")

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Has ``callback`` called once at the end of the call; False, and it is not, if that is over."""
        if self.outcome is not None:
            return False
        once = partial(callback)  # equal to no other
        self._callbacks.append(once)
        if self.outcome is None:
            return True
        try:
            self._callbacks.remove(once)
        except ValueError:  # it has been taken out to be called
            return True
        return False

    # What streams need to know, and tell.

    def current(self) -> Attempt | None:
        """The attempt whose answer may count, the newest if there are several."""
        for attempt in reversed(list(self._attempts.values())):
            if attempt.stands and attempt.call is not None:
                return attempt
        return None

    def commit(self, n: int, why: str) -> bool:
        """Attempt ``n`` counts from now on, whatever comes; False if it no longer can."""
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
        """The application waits for a message, of a stream whose plan has a limit."""
        self._serializer.run(self._on_reading, None)
        if self._commands:  # steps of other threads were left to this one
            self._perform(ThreadContext.USER)

    def _on_reading(self) -> None:
        self.call.on_reading(now=self.runtime.now())
        due = self.call.next_timer()
        # A timer that is due earlier will find that there is nothing to do yet, and be set anew.
        if due is not None and (self._due is None or due < self._due):
            self._arm(due)

    def read(self) -> None:
        """The application has its message."""
        self._serializer.run(self.call.on_message, None)
        if self._commands:
            self._perform(ThreadContext.USER)

    def fail(self, outcome: Outcome) -> None:
        """The application's requests failed."""
        self.cancel(outcome)

    def report(self, attempt: Attempt, place: ThreadContext, outcome: Outcome | None = None) -> None:
        """Attempt has ended; only the first to say so is heard."""
        if attempt.reported:
            return
        call = attempt.call
        if outcome is None:
            assert call is not None
            code = call.code()
            if code is grpc.StatusCode.OK:
                outcome = OK
            elif code is grpc.StatusCode.CANCELLED and (attempt.cancelled or call.details() == outcomes.FORKED):
                outcome = CANCELLED_HERE
            else:
                outcome = outcomes.failed(call, attempt.target, call.trailing_metadata())
        if attempt.reported:  # uninterrupted
            return
        runtime = self.runtime
        if attempt.aside:  # uninterrupted
            attempt.aside = False  # uninterrupted
            runtime.aside -= 1  # uninterrupted
        attempt.reported = True  # uninterrupted
        try:
            if isinstance(self._request, Requests):
                self._request.stop(attempt.command.n)
            if not attempt.mended:
                self._run(partial(self.call.on_outcome, attempt.command.n, outcome), place)
        except BaseException:
            self.runtime.soon(partial(self._resume, (attempt, outcome)))
            raise

    # Driving the machine.

    def _feed(self, step: Callable[..., CallCommands], place: ThreadContext) -> None:
        self._run(step, place)

    def _run(self, step: Callable[..., CallCommands], place: ThreadContext, *, raising: bool = False) -> bool:
        """Feeds the machine, and performs what it commands; with ``raising`` what grpc raises at the start of an
        attempt is raised. Returns whether it commands anything, as far as that is known yet."""
        try:
            found = self._serializer.run(partial(self._on_step, step), True)
            self.monitor.notify()
            self._perform(place, raising=raising)
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
        """Ends a call whose beginning was cut short, on the control thread."""
        self.cancel(ABANDONED, ThreadContext.CONTROL)
        self._resume()

    def _resume(self, report: tuple[Attempt, Outcome] | None = None) -> None:
        """Does what was left undone when an exception was raised, on the control thread.

        Args:
            report: the end of an attempt that the machine may not have been told of.
        """
        self._resumptions += 1
        if self._resumptions > MOST_RESUMPTIONS:
            return
        if self._serializer.torn:
            self._serializer.run(self._mend, None, patient=False)
        elif report is not None and report[0].command.seconds is None:
            self._run(partial(self.call.on_outcome, report[0].command.n, report[1]), ThreadContext.CONTROL)
        for attempt in list(self._attempts.values()):
            if attempt.ended and not attempt.readers:
                self.report(attempt, ThreadContext.CONTROL)
            # CallCommands may have been taken out and not been performed; what has been done is not done again.
            elif not attempt.aside and not attempt.reported:
                self._commands.append(attempt.command)
            elif attempt.command.dropped and not attempt.cancelled:
                self._commands.append(CancelAttempt(attempt.command.n))
        if self._ending is not None and self.outcome is None:
            self._commands.append(self._ending)
        self._perform(ThreadContext.CONTROL)
        self.monitor.notify()

    def _mend(self) -> None:
        """Ends the call, whose machine was cut short in a step."""
        self._serializer.torn = False
        now = self.runtime.now()
        for command in self.call.abandon(RAISED, now=now):
            attempt = self._attempts.get(command.n)
            if attempt is None or attempt.call is None or attempt.reported:
                if attempt is not None:
                    attempt.mended = attempt.cancelled = True
                self.call.on_outcome(command.n, RAISED, now=now)
            else:
                self._commands.append(CancelAttempt(command.n))
        self._ending = Finish(RAISED, 0)

    def _settled(self, commands: CallCommands) -> CallCommands:
        """What follows from a step of the machine, as part of it."""
        for command in commands:
            if type(command) is StartAttempt:
                self._attempts[command.n] = Attempt(command)
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

    def _perform(self, place: ThreadContext, *, raising: bool = False) -> None:
        """Performs what was commanded and nobody has yet."""
        while self._commands:
            try:
                command = self._commands.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                error = self._one(command, place)
            except BaseException:
                self._commands.appendleft(command)  # whatever has been done of it is not done again
                raise
            if error is not None and raising:
                self.cancel(CANCELLED)  # a policy might retry what the caller is being told of
                raise error
            if error is not None and not isinstance(error, Exception):
                raise error  # KeyboardInterrupt

    def _one(self, command: CallCommand, place: ThreadContext) -> BaseException | None:
        if type(command) is StartAttempt:
            return self._launch(self._attempts[command.n], place)
        if type(command) is CancelAttempt:
            attempt = self._attempts.get(command.n)
            if attempt is None:  # an exception cut the step short that began it
                self._run(partial(self.call.on_outcome, command.n, RAISED), place)
            else:
                self._stop(attempt, place)
        else:
            assert type(command) is Finish
            self._finish(command, place)
        return None

    def _launch(self, attempt: Attempt, place: ThreadContext) -> BaseException | None:
        """Starts an attempt here, or on a thread of its own where it might have to wait or runs interceptors."""
        if place is ThreadContext.USER or place is ThreadContext.ASIDE:
            if gate.closed:
                gate.wait()
            return self._send(attempt, place)
        if gate.closed or self.runtime.settings.attempt_interceptors:
            self._aside(lambda: self._launch(attempt, ThreadContext.ASIDE))
            return None
        return self._send(attempt, place)

    def _send(self, attempt: Attempt, place: ThreadContext) -> BaseException | None:
        """Hands an attempt to grpc; returns what grpc raised."""
        command = attempt.command
        request: Any = self._request
        runtime = self.runtime
        subchannel: Any = None
        depth = grpcio.depth()
        if attempt.aside or attempt.reported:  # uninterrupted
            return None  # it has been begun, and an exception kept that from being known
        attempt.aside = True  # uninterrupted
        runtime.aside += 1  # uninterrupted
        if attempt.cancelled:
            self.report(attempt, place, CANCELLED)
            return None
        try:
            if isinstance(request, Requests):
                request = request.feed(self, command.n)
            subchannel = command.host.subchannel
            attempt.target = subchannel.target
            if subchannel.silent:
                subchannel.deliver()
            send = (subchannel.nested(depth) if depth else subchannel.multicallables)[self._method]
            if threadless():
                send = grpcio.threadless(send)
            elif self._method.kind.endswith("unary"):
                send = send.future
            metadata = for_attempt(self._metadata, command.previous, command.carrier)
            arguments = (request, command.timeout, metadata, self._credentials, None, self._compression)
            if place is ThreadContext.USER and command.n == 1:
                call = send(*arguments)
            else:
                call = self._context.copy().run(send, *arguments)
            attempt.starter = get_ident(), place
            attempt.call = call
            self.monitor.notify()
            if attempt.cancelled:
                self._stop(attempt, place)
            call.add_done_callback(partial(self._on_done, attempt))
        except BaseException as error:  # noqa: BLE001 - raised by begin() or, KeyboardInterrupt, by _perform()
            if attempt.call is not None:
                attempt.call.cancel()
            details = f"attempt {command.n} failed to start: {error!r}"
            what = short_of(error)
            if what and subchannel is not None:
                sent = subchannel.unstarted(depth, error)
                details = f"attempt {command.n} failed to start: {error}; the process is out of {what}"
                self.report(attempt, place, Outcome("UNAVAILABLE", details, local=True, sent=sent))
                return None
            self.report(attempt, place, CLOSED if self.call.cluster.closed else local("INTERNAL", details))
            return error
        attempt.starter = None
        self.started(attempt)
        return None

    def started(self, attempt: Attempt) -> None:
        """Grpc has the attempt."""

    def _on_done(self, attempt: Attempt, _: object) -> None:
        """grpc's callback. While a reader is inside the attempt's first ``next()``, it alone knows whether a message
        came before the end, and reports; also if large requests or headers have committed the call to the attempt."""
        if outcomes.unconnected(attempt.call):
            let_go(attempt.call)
        attempt.ended = True  # uninterrupted
        if attempt.readers and not attempt.cancelled:  # uninterrupted
            return
        starter = attempt.starter
        self.report(attempt, starter[1] if starter is not None and starter[0] == get_ident() else ThreadContext.GRPC)

    def _stop(self, attempt: Attempt, place: ThreadContext) -> None:
        attempt.cancelled = True  # before its call is looked for: whoever starts it looks the other way round
        call = attempt.call
        if call is not None:
            # In this order: to the end of its requests grpc would answer with the end of the stream.
            call.cancel()
            if isinstance(self._request, Requests):
                self._request.stop(attempt.command.n)
            if attempt.ended:  # left to a reader, which an exception may have ended
                self.report(attempt, place)
        elif threadless() and isinstance(self._request, Requests):
            self._request.stop(attempt.command.n)  # this thread is sending them

    def _finish(self, command: Finish, place: ThreadContext) -> None:
        if place is ThreadContext.CONTROL and self.call.span is not None:
            self._aside(lambda: self._finish(command, ThreadContext.ASIDE))
            return
        call, outcome = self.call, command.outcome
        if self.outcome is None:
            if not self._told:
                self._told = True
                self.runtime.telemetry.call_ended(call, outcome, self.runtime.now(), place is not ThreadContext.USER)
            call.waker = self._lease = None
            if isinstance(self._request, Requests):
                self._request.close()
            speaker = self._attempts.get(command.n or call.committed)
            self.source = None if speaker is None else speaker.call
            self.outcome = outcome
        self.monitor.notify()
        if not self._callbacks:
            return
        if place is ThreadContext.GRPC or place is ThreadContext.ASIDE:
            _call_all(self._callbacks)
        else:
            self._aside(lambda: _call_all(self._callbacks))

    def _aside(self, target: Callable[[], object]) -> None:
        """Does something on a short-lived thread."""

        def run() -> None:
            target()

        self.runtime.clock.spawn(run, f"meshlib-call-{self._method.name}")


def _call_all(callbacks: deque[Callable[[], None]]) -> None:
    while callbacks:
        try:
            callback = callbacks.popleft()
        except IndexError:  # another thread was quicker
            return
        try:
            callback()
        except Exception:  # noqa: BLE001 - it is the application's, and others wait for their turn
            _log.exception("call: a callback raised: callback=%s", repr(callback))
