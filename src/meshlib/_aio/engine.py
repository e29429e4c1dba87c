"""What drives the machine of one call: performs its commands, feeds it time, hosts and the ends of attempts.

There is no task per call: the ends of attempts, timers of the loop and the cluster's wake-ups each feed the machine and
perform what it answers.
"""

import asyncio
import contextvars
import logging
import weakref
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, Final

import grpc
import grpc.aio

from meshlib._adapt import outcomes
from meshlib._adapt.errors import AioMeshRpcError, status_code
from meshlib._adapt.metadata import Metadata, for_attempt
from meshlib._aio.runtime import ChannelHandle
from meshlib._aio.waiting import Condition, guarded
from meshlib._control.methods import Method
from meshlib._control.timers import Timer, call_at
from meshlib._core.call import Call, CallCommands
from meshlib._core.commands import CallCommand, CancelAttempt, Finish, StartAttempt
from meshlib._core.deadlines import LONGEST, far
from meshlib._core.hedged import machine
from meshlib._core.policy import Plan
from meshlib._core.status import OK, Outcome, local
from meshlib._core.view import CallMesh

__all__ = ["GC_DETAILS", "LOCAL_DETAILS", "Engine"]

_log = logging.getLogger("meshlib")

Step = Callable[[], tuple[CallCommand, ...]]
"""An input of the machine, bound to its arguments."""

LOCAL_DETAILS: Final = "Locally cancelled by application!"
GC_DETAILS: Final = "Cancelled upon garbage collection!"
RAISED: Final = local("CANCELLED", "an exception was raised inside the call, for example by a signal handler")
MOST_REPAIRS: Final = 8
"""How often a call is repaired after exceptions: what raises each time is no signal handler."""
INSECURE: Final = "Call credentials are only valid on secure channels"
"""grpc.aio's own words."""


class Engine:
    """One call under way. The kinds of calls say how an attempt is sent and when it has ended.

    Args:
        lease: of the channel; kept, so that a call under way keeps the channel alive.
        method: the method.
        plan: its policies.
        timeout: seconds for the whole call.
        metadata: the caller's.
        credentials: of the call.
        wait_for_ready: None: as the plan says.
        compression: of the requests.
        streaming: the response is a stream.

    Raises:
        grpc.aio.UsageError: the channel is closed, serves another loop, or is in plaintext while the call has
            credentials.
    """

    # What few calls ever need has its value here, so that the others do not pay for it.

    outcome: Outcome | None = None
    """How the call ended; None while it has not."""
    last: int = 0
    """The attempt whose end is the call's; 0: none."""
    given_up: frozenset[int] = frozenset()
    """Attempts that the mesh itself, or the application, has cancelled."""
    holder: Callable[[], Any] | None = None
    """Of a call with a stream: what the application holds; answers None once it let go."""
    _todo: list[Step] | None = None
    """The input under way and those queued behind it; None between inputs."""
    _timer: Timer | None = None
    _armed: bool = False
    """It has asked for a timer before."""
    _callbacks: tuple[Callable[[Any], None], ...] = ()
    _news: Condition | None = None
    _repairs: int = 0
    """How often it was repaired after an exception."""
    _ending: Finish | None = None
    """How the machine has the call end, if an exception interrupted that."""
    _told: bool = False
    """Telemetry knows that the call has ended, where it is interested."""
    _waiters: tuple["asyncio.Future[None]", ...] = ()
    """Of those who wait for the end."""

    def __init__(
        self,
        lease: ChannelHandle,
        method: Method,
        plan: Plan,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
        *,
        streaming: bool,
    ) -> None:
        if credentials is not None and lease.settings.credentials is None:
            raise grpc.aio.UsageError(INSECURE)
        self._lease = lease
        self.runtime = runtime = lease.runtime()
        self.loop = runtime.loop
        self._now = now = runtime.now
        self.method = method
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
        call.reading = not streaming
        self.attempts: dict[int, Any] = {}
        """grpc's call objects by number, as long as they are of use."""
        self._metadata = metadata
        self._credentials = credentials
        self._compression = compression
        self.context = contextvars.copy_context()

    # The machine.

    def begin(self) -> None:
        """The call starts: a connected host gets its attempt before this returns."""
        try:
            now = self._now()
            self._metadata = self.runtime.telemetry.call_started(self.call, self._metadata, now)
            self.runtime.calls.add(self)
            self.feed(partial(self.call.begin, now))
        except BaseException:
            self.cut_short()  # the caller gets what was raised, and no call
            raise

    def feed(self, step: Step) -> None:
        """Feeds the machine one input, and performs its commands and whatever follows from them.

        A signal handler or a finalizer may feed another input in the middle of this, and so does an attempt that ends
        while it is started or cancelled. The machine takes one input at a time: the other one is queued.

        A signal handler may also raise between any two lines. That ends the call: see :meth:`cut_short`.
        """
        if self._todo is not None:
            self._todo.append(step)
            return
        self._todo = todo = [step]
        commands: CallCommands = ()
        try:
            for step in todo:  # it grows meanwhile
                commands = step()
                for command in commands:
                    if type(command) is StartAttempt:
                        self._start(command)
                    elif type(command) is CancelAttempt:
                        self.give_up(command.n)
                    else:
                        self._finish(command.outcome, command.n)
            if self.outcome is None:
                self._arm()
            self._todo = None
            if todo[-1] is not step:  # it came after the loop
                self._postpone(todo[todo.index(step) + 1 :])
        except BaseException:  # out of a signal handler, or of the observer's code
            self._todo = None
            self.cut_short(commands)
            raise

    def _postpone(self, steps: list[Step]) -> None:
        """The loop performs inputs that came too late for the one under way."""
        for step in steps:
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(guarded(self.feed, self.cut_short), step)

    def cut_short(self, commands: CallCommands = ()) -> None:
        """An exception was raised in the middle of the call, which is left half done. The loop ends the call.

        Args:
            commands: the last ones of the machine; if the call was about to end, it ends like that.
        """
        for command in commands:
            if type(command) is Finish:
                self._ending = command
        if self._repairs < MOST_REPAIRS and not self.loop.is_closed():
            self._repairs += 1
            self.loop.call_soon_threadsafe(guarded(lambda _: self.feed(self._abandon), self.cut_short), None)

    def _abandon(self) -> CallCommands:
        """The input that ends a call whose machine, or whose commands, were interrupted. Whatever is counted is given
        back at once; what was done before is not done again."""
        call, now = self.call, self._now()
        if not call.attempts:
            call.begun = call.begun or now
        for attempt in call.abandon(RAISED, now=now):
            self.give_up(attempt.n)
            call.on_outcome(attempt.n, RAISED, now)
        if self.outcome is not None:
            return (Finish(self.outcome, self.last),)
        return (self._ending or Finish(RAISED, 0),)

    @property
    def news(self) -> Condition:
        """Told when an attempt starts or ends, and when the call ends."""
        if self._news is None:
            self._news = Condition(self.loop)
        return self._news

    def handle(self) -> Any:
        """What the application holds, for its callbacks; None once it let go."""
        return self if self.holder is None else self.holder()

    def attempt_ended(self, n: int, error: BaseException | None) -> None:
        """Attempt ``n`` ended, with ``error`` or well. Told more than once, the first counts."""
        attempt = self.call.attempts[n - 1]
        if attempt.seconds is not None:
            return
        now = self._now()
        if error is None:
            outcome = OK
        elif isinstance(error, grpc.aio.AioRpcError):
            subchannel: Any = attempt.host.subchannel
            error.__traceback__ = None  # its frames are grpc.aio's, and hold the attempt
            outcome = outcomes.failed(error, subchannel.target, error.trailing_metadata())
        elif isinstance(error, asyncio.CancelledError):
            outcome = Outcome("CANCELLED", LOCAL_DETAILS, local=True)  # a server may have seen it
            if n not in self.given_up:
                # The task that read or wrote was cancelled, and grpc.aio cancelled the attempt with it.
                self.given_up |= {n}
                outcome = local("CANCELLED", LOCAL_DETAILS)
                self.feed(partial(self.call.on_cancel, outcome, now=now))
        else:
            # Bad metadata, a request that is no bytes: what grpc.aio raised is what the caller is to see.
            outcome = Outcome("INTERNAL", f"{type(error).__name__}: {error}", sent=False, local=True, error=error)
        self.feed(partial(self._report, attempt, outcome, now))
        if self.outcome is None:
            self._tell()
            self.left()

    def _report(self, attempt: StartAttempt, outcome: Outcome, now: float) -> tuple[CallCommand, ...]:
        """The input for the end of an attempt, unless the same was queued before."""
        return self.call.on_outcome(attempt.n, outcome, now) if attempt.seconds is None else ()

    def commit(self, n: int, why: str) -> None:
        """Attempt ``n`` is the one that counts."""
        self.feed(partial(self.call.on_commit, n, why, now=self._now()))

    def counts(self, n: int) -> bool:
        """Whether what attempt ``n`` says may reach the application: it is under way, or its end is the call's."""
        return self.call.attempts[n - 1].outcome is None or self.last == n

    def live(self) -> list[int]:
        """The attempts to listen to: the one that counts if that is settled, else all under way."""
        if self.outcome is not None:
            return [self.last] if self.last in self.attempts else []
        committed = self.call.committed
        if committed:
            return [committed] if committed in self.attempts else []
        return [n for n in tuple(self.attempts) if self.call.attempts[n - 1].outcome is None]

    def request(self, n: int) -> Any:
        """What attempt ``n`` is to send, in grpc's form. The kind's."""
        raise NotImplementedError

    def follow(self, n: int, attempt: Any) -> None:
        """Hears when attempt ``n`` has ended. The kind's."""
        raise NotImplementedError

    def left(self) -> None:
        """An attempt, or the call, has ended. The kind's."""

    def _start(self, command: StartAttempt) -> None:
        subchannel: Any = command.host.subchannel
        try:
            # Known before it is followed: an exception may be raised between the two.
            self.attempts[command.n] = attempt = subchannel.multicallables[self.method](
                self.request(command.n),
                timeout=command.timeout,
                metadata=for_attempt(self._metadata, command.previous, command.carrier),
                credentials=self._credentials,
                compression=self._compression,
            )
            self.follow(command.n, attempt)
        except Exception as error:  # noqa: BLE001 - whatever it is, the place at the host is to be freed
            self.give_up(command.n)  # grpc may have it
            self.attempt_ended(command.n, error)
            return
        if self._news is not None:
            self._news.tell()

    def give_up(self, n: int) -> None:
        self.given_up |= {n}
        attempt = self.attempts.get(n)
        if attempt is not None:
            attempt.cancel()  # first: an exception in between is to leave no attempt that nobody knows
            if n != self.call.committed:
                self.attempts.pop(n, None)

    def _finish(self, outcome: Outcome, n: int) -> None:
        self.runtime.calls.discard(self)
        # What has ended is in no cycle. Else its attempt lives on until Python looks for cycles, and keeps a connection
        # of a closed channel known to C-core, which has a new channel to the same host refused while that backs off.
        self.call.waker = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.outcome = outcome
        self.last = n
        counted = n or self.call.committed
        self.attempts = {counted: self.attempts[counted]} if counted in self.attempts else {}
        self.left()
        self._tell()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = ()
        try:
            if (self.runtime.telemetry.listens or outcome is not OK or len(self.call.attempts) > 1) and not self._told:
                self._told = True
                self.runtime.telemetry.call_ended(self.call, outcome, self._now())  # before anybody told runs
        finally:
            while self._callbacks:
                callback, *rest = self._callbacks
                self._callbacks = tuple(rest)
                self._run(callback)
        if self.holder is not None and (held := self.holder()) is not None:
            self.holder = weakref.ref(held)

    def _tell(self) -> None:
        if self._news is not None:
            self._news.tell()

    def _run(self, callback: Callable[[Any], None]) -> None:
        try:
            callback(self.handle())
        except Exception:  # noqa: BLE001 - it is the application's
            _log.exception("%s: a done callback raised; the other callbacks still run", self.method.name)

    def _wake(self) -> None:
        """The cluster has news for a call that waits. It may be in the midst of telling others."""
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

    # Waiting for it.

    async def finished(self) -> Outcome:
        """Waits for the end of the call."""
        if self.failed:
            await self.turn()
        while self.outcome is None:
            waiter = self.waiter()
            try:
                if self.outcome is None:
                    await waiter
            finally:
                self._waiters = tuple(other for other in self._waiters if other is not waiter)
        return self.outcome

    def waiter(self) -> "asyncio.Future[None]":
        """A future that is done when the call ends. Check the outcome between this and the await: a signal handler or a
        finalizer may end the call at any time."""
        waiter = self.loop.create_future()
        self._waiters = (*self._waiters, waiter)
        return waiter

    async def turn(self) -> None:
        """Lets others run. A call that is refused on the spot has waited for nothing: who makes the next one at once,
        and so on, would have the loop to himself, and the resolver's answer, which would help, would never come."""
        await asyncio.sleep(0)

    # What an application may ask of any call.

    def cancel(self, details: str = LOCAL_DETAILS) -> bool:
        """Ends the call; whether there was anything to end."""
        if self.outcome is not None:
            return False
        self.feed(partial(self.call.on_cancel, local("CANCELLED", details), now=self._now()))
        return True

    def cancelled(self) -> bool:
        return self.outcome is not None and self.outcome.code == "CANCELLED"

    def done(self) -> bool:
        return self.outcome is not None

    def time_remaining(self) -> float | None:
        deadline = self.call.deadline
        return None if deadline is None else max(0.0, deadline - self._now())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.outcome is not None:
            callback(self.handle())
        else:
            self._callbacks = (*self._callbacks, callback)

    @property
    def mesh(self) -> CallMesh:
        """What the mesh did for the call, so far."""
        return CallMesh(self.call, self.outcome)

    @property
    def locally_cancelled(self) -> bool:
        """Whether the application, or the closing channel, ended it: then ``await`` raises ``CancelledError``."""
        outcome = self.outcome
        return outcome is not None and outcome.local and outcome.code == "CANCELLED"

    async def initial_metadata(self) -> grpc.aio.Metadata:
        await self.finished()
        attempt = self.attempts.get(self.call.committed)
        known: grpc.aio.Metadata
        if self.locally_cancelled and attempt is not None:
            known = await attempt.initial_metadata()  # it had come before the call was cancelled
        else:
            known = await self._said("initial_metadata", grpc.aio.Metadata())
        return known

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        known: grpc.aio.Metadata = await self._said("trailing_metadata", grpc.aio.Metadata())
        return known

    async def code(self) -> grpc.StatusCode:
        if self.outcome is None and self.call.plan.attempt_limit is not None:
            self.call.on_reading(now=self._now())
            self._arm()
        return status_code((await self.finished()).code)

    async def details(self) -> str:
        known: str = await self._said("details", (await self.finished()).details)
        return known

    async def debug_error_string(self) -> str | None:
        known: str | None = await self._said("debug_error_string", None)
        return known

    @property
    def failed(self) -> bool:
        """Whether it ended in an error, of which :attr:`error` tells."""
        outcome = self.outcome
        return outcome is not None and outcome.code != "OK" and not self.locally_cancelled

    @property
    def error(self) -> BaseException:
        """What a call that failed raises: grpc's own error if there was one attempt, else one that tells of all.

        Another one each time, as in grpc.aio, and for no variable: what is raised holds the frames that it went
        through, and they hold the call.
        """
        assert self.outcome is not None
        return _failure(self.call, self.outcome)

    async def raise_for_status(self) -> None:
        """Waits for the end and raises it, unless it is a good one."""
        await self.finished()
        if self.locally_cancelled:
            raise asyncio.CancelledError
        if self.failed:
            raise self.error

    async def _said(self, what: str, otherwise: Any) -> Any:
        """What the error, or the attempt that ended the call well, says of ``what``."""
        await self.finished()
        if self.failed:
            told = getattr(self.error, what, None)
            return otherwise if told is None else told()
        if self.last in self.attempts:
            return await getattr(self.attempts[self.last], what)()
        return otherwise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method.name} {self.outcome or self.call.state.value}>"


def _failure(call: Call, outcome: Outcome) -> BaseException:
    mesh = CallMesh(call, outcome)
    error: Any = outcome.error
    if error is None or isinstance(error, grpc.aio.AioRpcError):
        details = call.details(outcome)
        # What grpc.aio calls INTERNAL for a lost race is no server's word.
        several = len(call.attempts) > 1 or details != outcome.details
        if error is None or several or error.code().name != outcome.code:
            return AioMeshRpcError(outcome, details, mesh, call.explain(outcome))
        error = copy(error)
        error.mesh = mesh
    return error  # type: ignore[no-any-return]
