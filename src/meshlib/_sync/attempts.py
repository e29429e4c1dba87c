"""The attempts of a non-blocking call: start them with grpc, cancel them, report their ends.

Several threads may act on an attempt at once, so each step sets its mark first: an attempt may be cancelled while it
starts, and is reported once.
"""

import contextvars
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any, Final, Protocol, final

import grpc

from meshlib._adapt import grpcio, outcomes
from meshlib._adapt.grpcio import let_go
from meshlib._adapt.metadata import Metadata, for_attempt
from meshlib._control.exits import threadless
from meshlib._control.invocation import Invocation
from meshlib._control.shortage import short_of
from meshlib._core.attempt import AttemptRecord
from meshlib._core.call import Call, CallCommands
from meshlib._core.cluster_calls import CLOSED
from meshlib._core.status import OK, Outcome, local
from meshlib._sync.control import gate
from meshlib._sync.requests import Requests
from meshlib._sync.runtime import Runtime
from meshlib._sync.waiting import Monitor, ThreadContext

__all__ = ["CANCELLED", "Attempt", "AttemptRunner", "GrpcCall"]

CANCELLED: Final = local("CANCELLED", "Locally cancelled by application!")
CANCELLED_HERE: Final = Outcome("CANCELLED", "Locally cancelled by application!", local=True)
"""The outcome of an attempt that was cancelled locally; a server may have seen it."""


class GrpcCall(Protocol):
    """The part of grpc's call object that an attempt uses."""

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
    """One attempt: the shell's state, in addition to the machine's record."""

    __slots__ = ("aside", "call", "cancelled", "ended", "mended", "readers", "record", "reported", "starter", "target")

    def __init__(self, record: AttemptRecord) -> None:
        self.record = record
        self.call: GrpcCall | None = None
        """grpc's call, once started."""
        self.aside = False
        """Counted as an attempt that blocks no thread."""
        self.cancelled = False
        self.ended = False
        """grpc has ended it; a reader may still have to report what it read before."""
        self.mended = False
        """The machine got its end after an exception cut a step short; it must not be sent."""
        self.readers = 0
        """Threads inside its ``next()``."""
        self.reported = False
        self.target = ""
        """The address it was sent to. When it ends, its host may have another connection, or none."""
        self.starter: tuple[int, ThreadContext] | None = None
        """The thread that is starting it; grpc's callback may run on the same."""

    @property
    def stands(self) -> bool:
        """Whether its outcome may still count."""
        return not self.reported and self.record.outcome is None and not self.record.dropped


class AttemptRunner:
    """The attempts of one call.

    Args:
        runtime: of the channel.
        call: the machine.
        invocation: the call.
        request: the request as bytes, or the stream of them.
        metadata: the application's and telemetry's.
    """

    def __init__(
        self, runtime: Runtime, call: Call, invocation: Invocation, request: bytes | Requests, metadata: Metadata
    ) -> None:
        self.call = call
        self.runtime = runtime
        self.monitor = Monitor(runtime.clock)
        self._invocation = invocation
        self._method = invocation.method
        self._request = request
        self._metadata = metadata
        self._context = contextvars.copy_context()
        """The caller's context, for attempts started on other threads."""
        self._attempts: dict[int, Attempt] = {}

    def _run(self, step: Callable[..., CallCommands], thread: ThreadContext) -> bool:
        """Feed the machine and perform its commands."""
        raise NotImplementedError

    def commit(self, n: int, why: str) -> bool:
        """Commit the call to attempt ``n``; False if that is no longer possible."""
        raise NotImplementedError

    def fail(self, outcome: Outcome) -> None:
        """End the call: the application's requests failed."""
        raise NotImplementedError

    def _resume(self, report: tuple[Attempt, Outcome] | None = None) -> None:
        """Perform, on the control thread, the steps that an exception left undone."""
        raise NotImplementedError

    def current(self) -> Attempt | None:
        """The attempt whose outcome may count; the newest if there are several."""
        for attempt in reversed(list(self._attempts.values())):
            if attempt.stands and attempt.call is not None:
                return attempt
        return None

    def report(self, attempt: Attempt, thread: ThreadContext, outcome: Outcome | None = None) -> None:
        """Report the end of an attempt. Only the first report counts."""
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
                self._request.stop(attempt.record.n)
            if not attempt.mended:
                self._run(partial(self.call.on_outcome, attempt.record.n, outcome), thread)
        except BaseException:
            self.runtime.soon(partial(self._resume, (attempt, outcome)))
            raise

    def _launch(self, attempt: Attempt, thread: ThreadContext) -> BaseException | None:
        """Start an attempt here, or on its own thread if it might block or runs interceptors."""
        if thread is ThreadContext.USER or thread is ThreadContext.ASIDE:
            if gate.closed:
                gate.wait()
            return self._send(attempt, thread)
        if gate.closed or self.runtime.settings.attempt_interceptors:
            self._aside(lambda: self._launch(attempt, ThreadContext.ASIDE))
            return None
        return self._send(attempt, thread)

    def _send(self, attempt: Attempt, thread: ThreadContext) -> BaseException | None:
        """Pass an attempt to grpc; return the exception that grpc raised."""
        record = attempt.record
        request: Any = self._request
        runtime = self.runtime
        subchannel: Any = None
        depth = grpcio.depth()
        if attempt.aside or attempt.reported:  # uninterrupted
            return None  # an earlier try, cut short by an exception, started it
        attempt.aside = True  # uninterrupted
        runtime.aside += 1  # uninterrupted
        if attempt.cancelled:
            self.report(attempt, thread, CANCELLED)
            return None
        try:
            if isinstance(request, Requests):
                request = request.feed(self, record.n)
            subchannel = record.host.subchannel
            attempt.target = subchannel.target
            if subchannel.silent:
                subchannel.deliver()
            send = (subchannel.nested(depth) if depth else subchannel.multicallables)[self._method]
            if threadless():
                send = grpcio.threadless(send)
            elif self._method.kind.endswith("unary"):
                send = send.future
            metadata = for_attempt(self._metadata, record.previous, record.carrier)
            invocation = self._invocation
            arguments = (request, record.timeout, metadata, invocation.credentials, None, invocation.compression)
            if thread is ThreadContext.USER and record.n == 1:
                call = send(*arguments)
            else:
                call = self._context.copy().run(send, *arguments)
            attempt.starter = get_ident(), thread
            attempt.call = call
            self.monitor.notify()
            if attempt.cancelled:
                self._stop(attempt, thread)
            call.add_done_callback(partial(self._on_done, attempt))
        except BaseException as error:  # noqa: BLE001 - raised by begin() or, KeyboardInterrupt, by _perform()
            if attempt.call is not None:
                attempt.call.cancel()
            details = f"attempt {record.n} failed to start: {error!r}"
            what = short_of(error)
            if what and subchannel is not None:
                sent = subchannel.unstarted(depth, error)
                details = f"attempt {record.n} failed to start: {error}; the process is out of {what}"
                self.report(attempt, thread, Outcome("UNAVAILABLE", details, local=True, sent=sent))
                return None
            self.report(attempt, thread, CLOSED if self.call.cluster.closed else local("INTERNAL", details))
            return error
        attempt.starter = None
        self.started(attempt)
        return None

    def started(self, attempt: Attempt) -> None:
        """Called when grpc has accepted the attempt."""

    def _on_done(self, attempt: Attempt, _: object) -> None:
        """grpc's callback for the end of an attempt.

        A reader inside the attempt's first ``next()`` reports instead: only the reader can see whether a message came
        first. This also holds if large requests or headers have committed the call to the attempt.
        """
        if outcomes.unconnected(attempt.call):
            let_go(attempt.call)
        attempt.ended = True  # uninterrupted
        if attempt.readers and not attempt.cancelled:  # uninterrupted
            return
        starter = attempt.starter
        self.report(attempt, starter[1] if starter is not None and starter[0] == get_ident() else ThreadContext.GRPC)

    def _stop(self, attempt: Attempt, thread: ThreadContext) -> None:
        attempt.cancelled = True  # before reading its call: the starting thread sets the call, then reads this mark
        call = attempt.call
        if call is not None:
            # Cancel first: grpc would send the end of the requests as the end of the stream.
            call.cancel()
            if isinstance(self._request, Requests):
                self._request.stop(attempt.record.n)
            if attempt.ended:  # its report was left to a reader, which an exception may have ended
                self.report(attempt, thread)
        elif threadless() and isinstance(self._request, Requests):
            self._request.stop(attempt.record.n)  # this thread is sending the requests

    def _aside(self, target: Callable[[], object]) -> None:
        """Run ``target`` on a short-lived thread."""

        def run() -> None:
            target()

        self.runtime.clock.spawn(run, f"meshlib-call-{self._method.name}")
