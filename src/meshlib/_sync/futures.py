"""The handle of a non-blocking call: ``grpc.Call``, ``grpc.Future`` and ``grpc.RpcError``.

grpc's call object is all three at once, and so is this: ``result()`` raises the object itself.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, final

import grpc

from meshlib._adapt import grpcio
from meshlib._adapt.errors import MeshRpcError, status_code
from meshlib._adapt.metadata import EMPTY_PATIENCE
from meshlib._control.exits import threadless
from meshlib._control.invocation import Invocation
from meshlib._control.methods import Method
from meshlib._core.status import OK, Outcome
from meshlib._core.view import CallMesh
from meshlib._sync import control
from meshlib._sync.engine import ABANDONED, CANCELLED, Attempt, Engine
from meshlib._sync.requests import ITERATING_FAILED, Requests
from meshlib._sync.runtime import ChannelHandle
from meshlib._sync.unary import failure, serialized, unserialized

__all__ = ["CLOSED_FUTURE", "Future", "Handle", "begun", "made", "result"]

_log = logging.getLogger("meshlib")

H = TypeVar("H", bound="Handle")

CLOSED_FUTURE = "Cannot invoke RPC: Channel closed!"
"""grpc's text of the ``ValueError`` for a non-blocking call on a closed channel, to the letter."""


class Handle(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call in flight, or ended. Collecting it cancels the call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine  # first: __del__ needs it, whatever is raised here
        super().__init__()

    @property
    def mesh(self) -> CallMesh:
        """The mesh's record of the call so far."""
        return CallMesh(self._engine.call, self._engine.outcome)

    # grpc.RpcContext

    def is_active(self) -> bool:
        return self._engine.outcome is None

    def time_remaining(self) -> float | None:  # type: ignore[override]
        deadline = self._engine.call.deadline
        return None if deadline is None else max(0.0, deadline - self._engine.runtime.now())

    def cancel(self) -> bool:
        return self._engine.cancel(CANCELLED)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return self._engine.add_callback(callback)

    # grpc.Call

    def initial_metadata(self) -> Any:
        """Block until metadata is final: that of an attempt, which commits the call to it, or of the ended call.

        Empty metadata commits to nothing, and must stay empty for a while: grpc shows it a moment before it shows
        that an attempt failed without any.
        """
        engine = self._engine
        waits = engine.call.streaming and engine.call.plan.attempt_limit is not None
        if waits:
            engine.reading()
        while isinstance(attempt := engine.wait_for(lambda: engine.current() or engine.outcome), Attempt):
            assert attempt.call is not None
            headers = attempt.call.initial_metadata()
            if not headers:
                engine.wait_for(partial(_shown, engine, attempt), EMPTY_PATIENCE)
            if attempt.call.done():
                engine.wait_for(lambda attempt=attempt: attempt.reported or engine.outcome)  # type: ignore[misc]
            elif not headers or engine.commit(attempt.record.n, "headers"):
                if waits:
                    engine.read()
                return headers
        return () if engine.source is None else engine.source.initial_metadata()

    def trailing_metadata(self) -> Any:
        source = self._ended().source
        return () if source is None else source.trailing_metadata()

    def code(self) -> grpc.StatusCode:
        return status_code(self._outcome().code)

    def details(self) -> str:
        outcome, engine = self._outcome(), self._engine
        if outcome is OK and engine.source is not None:
            return engine.source.details() or ""
        return engine.call.details(outcome)

    def debug_error_string(self) -> str:
        """The mesh's account of a failure, if it adds anything, and C-core's of the last attempt."""
        outcome, engine = self._outcome(), self._engine
        said = grpcio.debug_string(engine.source)
        if outcome.code == "OK" or self._plain(outcome):
            return said
        story = engine.call.explain(outcome)
        return f"{story}; {said}" if said else story

    # grpc.Future

    def cancelled(self) -> bool:
        outcome = self._engine.outcome
        return outcome is CANCELLED or outcome is ABANDONED

    def running(self) -> bool:
        return self._engine.outcome is None

    def done(self) -> bool:
        return self._engine.outcome is not None

    def result(self, timeout: float | None = None) -> Any:
        if self._failed(timeout):
            try:
                raise self
            finally:
                del self  # its traceback holds this frame, which must not hold it
        source = self._engine.source
        assert source is not None
        return source.result()

    def exception(self, timeout: float | None = None) -> "Handle | None":
        return self if self._failed(timeout) else None

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        if not self._failed(timeout):
            return None
        try:
            raise self
        except grpc.RpcError:
            return sys.exc_info()[2]

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self._engine.add_callback(partial(fn, self)):
            fn(self)

    def _ended(self) -> Engine:
        engine = self._engine
        if engine.outcome is None and engine.call.streaming and engine.call.plan.attempt_limit is not None:
            engine.reading()
        engine.wait()
        return engine

    def _outcome(self) -> Outcome:
        outcome = self._ended().outcome
        assert outcome is not None
        return outcome

    def _plain(self, outcome: Outcome) -> bool:
        """Whether the call failed as its only attempt did, so that there is nothing to add."""
        call = self._engine.call
        return len(call.attempts) == 1 and outcome.error is not None and call.details(outcome) == outcome.details

    def _failed(self, timeout: float | None) -> bool:
        """Wait for the end; return whether the call failed."""
        if not self._engine.wait(timeout):
            raise grpc.FutureTimeoutError
        if self.cancelled():
            raise grpc.FutureCancelledError
        return self._outcome().code != "OK"

    def __str__(self) -> str:
        outcome = self._engine.outcome
        if outcome is None:
            return self._engine.call.state.value
        if outcome.code == "OK":
            return outcome.code
        return f"{outcome.code}: {outcome.details}" if self._plain(outcome) else self._engine.call.explain(outcome)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._engine.call.method} {self}>"

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():
            self._engine.abandon()


def _shown(engine: Engine, attempt: Attempt) -> object:
    """Not None once it is known whether an attempt without initial metadata failed."""
    return attempt.reported or engine.outcome or engine.call.committed == attempt.record.n or None


@final
class Future(Handle):
    """A call with one response."""


def begun(handle: H) -> H:
    """Start a call without waiting. Its handle is created first: if a signal handler raises at any point, the handle
    is collected, which cancels the call."""
    handle._engine.begin()
    return handle


def made(kind: type[Engine], lease: ChannelHandle, invocation: Invocation, request: Any, closed: str) -> Engine:
    """An engine for a call that has not begun.

    Args:
        kind: the class of the engine.
        lease: the channel handle.
        invocation: the call.
        request: the request, or the iterator of requests.
        closed: error text if the channel is closed.

    Raises:
        grpc.RpcError: the request could not be serialised.
        ValueError: the channel is closed, or the metadata is not a sequence of pairs.
        TypeError: the request is not bytes, or the metadata of a wrong type.
    """
    method = invocation.method
    plan = lease.plans[method.name]
    streamed = method.kind.startswith("stream")
    try:
        data = request if streamed else serialized(request, method)
    except MeshRpcError as error:
        unserialized(lease, method, invocation.metadata, error)
        raise
    if not streamed and not isinstance(data, bytes):
        raise TypeError(f"Argument 'message' has incorrect type (expected bytes, got {type(data).__name__})")
    if lease.closed:
        raise ValueError(closed)
    if streamed:
        serializer = method.serializer
        if threadless():  # no thread could read them meanwhile
            request, serializer = gathered(request, method), None
        data = Requests(request, serializer, method.name, plan.buffer_size, control.current().clock)
    return kind(lease, plan, invocation, data)


def gathered(requests: Iterable[Any], method: Method) -> Iterator[bytes]:
    """All requests of a stream as bytes.

    Raises:
        MeshRpcError: the iterator or the serializer failed; the text is grpc's.
    """
    try:
        read = list(requests)
    except Exception:  # noqa: BLE001 - it is the application's
        _log.exception("%s: the request iterator raised", method.name)
        raise MeshRpcError(ITERATING_FAILED, ITERATING_FAILED.details, None) from None
    return iter([serialized(request, method) for request in read])


def result(engine: Engine) -> Any:
    """Start a call, block until it has ended, and return its response.

    Raises:
        grpc.RpcError: the call failed.
    """
    try:
        engine.begin()
        engine.wait()
    except BaseException:
        engine.cancel(CANCELLED)
        raise
    outcome, source = engine.outcome, engine.source
    assert outcome is not None
    if outcome.code == "OK":
        assert source is not None
        return source.result()
    error: Any = outcome.error
    if error is not None:
        error.initial_metadata()  # grpc may report the end before these; the copy needs them
        outcome.error = grpcio.inactive(error)
    raise failure(engine.call, outcome)
