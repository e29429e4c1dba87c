"""Interceptor of test servers: counts and records calls, and injects faults.

It applies to the built-in echo service and to users' own servicers alike.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc

from meshlib.testing.echo import DELAY_MS, REQUEST_ID, SERVER_NAME, metadata_value
from meshlib.testing.faults import Script

Metadata = tuple[tuple[str, str | bytes], ...]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # generic only in the stubs
Recorder = Callable[[str, str], None]
"""Called with ``"start"`` or ``"end"`` and the request id of a handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Call as received by the server."""

    method: str
    """``/package.Service/Method``."""
    metadata: Metadata
    peer: str
    """Address of the client's socket, the same for all calls over one connection."""
    at: float
    """``time.monotonic()``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFault:
    """Fault of a call; see ``Server.fault``."""

    code: grpc.StatusCode | None = None
    details: str = ""
    trailing_metadata: Metadata = ()
    delay: float = 0.0
    hang: bool = False
    after: int = 0
    initial_metadata: bool = False

    @property
    def spares_handler(self) -> bool:
        """Whether the call fails before its handler runs."""
        return self.code is not None and self.after == 0


_NO_FAULT = CallFault()


class _Call:
    """One call, from the start of its handler to its own end or the handler's, whichever is later.

    A call does not end when its handler returns: until the response is written, a kill still loses it.
    """

    def __init__(self, method: str, context: grpc.ServicerContext, fault: CallFault, server_name: str) -> None:
        self.method = method
        self.fault = fault
        self.request_id = metadata_value(context, REQUEST_ID)
        self.parts = 2  # the handler and the call; counted down under the lock of ``Traffic``
        self.released = threading.Event()  # the call ended, or its fault was healed
        self._ended = threading.Event()
        self._context = context
        self._server_name = server_name
        self._announced = False

    @property
    def executed(self) -> str | None:
        """Request id, if the handler runs and there is one."""
        return None if self.fault.spares_handler else self.request_id

    def on_end(self) -> None:
        """Called when the call has its status or the client has ended it."""
        self._ended.set()
        self.released.set()

    def hold_as_asked(self) -> None:
        """Hold the call as long as its metadata requests."""
        milliseconds = metadata_value(self._context, DELAY_MS)
        if milliseconds is not None:
            self._ended.wait(float(milliseconds) / 1000)
            self._abort_if_ended()

    def announce(self) -> None:
        """Send the initial metadata, once."""
        if not self._announced:
            self._announced = True
            with suppress(ValueError):  # the servicer has sent its own
                self._context.send_initial_metadata(((SERVER_NAME, self._server_name),))

    def strike(self) -> None:
        """Apply the fault; returns if it only delays, or was healed while it hung."""
        fault = self.fault
        if fault.initial_metadata:
            self.announce()
        if fault.hang or fault.delay:
            self.released.wait(None if fault.hang else fault.delay)
            self._abort_if_ended()
        if fault.code is not None:
            self._context.set_trailing_metadata(fault.trailing_metadata)
            self._context.abort(fault.code, fault.details)

    def _abort_if_ended(self) -> None:
        if self._ended.is_set():
            self._context.abort(grpc.StatusCode.CANCELLED, "the call ended while the server held it")


class Traffic(grpc.ServerInterceptor):
    """Counts and records the calls of one server, and injects faults. Thread-safe."""

    def __init__(self, server_name: str, record: Recorder) -> None:
        self.changed = threading.Condition()
        self.script: Script[CallFault] = Script()
        self.calls: Counter[str] = Counter()
        self.received: deque[Received] = deque(maxlen=10_000)
        self.executions: Counter[str] = Counter()
        self._active: set[_Call] = set()
        self._server_name = server_name
        self._record = record

    @property
    def in_flight(self) -> int:
        """Number of calls received and not ended."""
        with self.changed:
            return len(self._active)

    @property
    def unfinished(self) -> frozenset[str]:
        """Request ids whose handlers have begun and whose calls have not ended."""
        with self.changed:
            return frozenset(call.executed for call in self._active if call.executed is not None)

    def heal(self, method: str | None) -> None:
        """Remove the faults of ``method``, or all, and release the calls that they hold."""
        with self.changed:
            self.script.heal((method,))
            for call in self._active:
                if method in (None, call.method):
                    call.released.set()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Handler], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Wrap the handler; hook of grpc."""
        handler = continuation(details)
        if handler is None:
            return None  # grpc answers UNIMPLEMENTED
        kind = "_".join("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
        behaviour = getattr(handler, kind)
        wrapped = partial(self._stream if handler.response_streaming else self._unary, details.method, behaviour)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrapped, handler.request_deserializer, handler.response_serializer)  # type: ignore[no-any-return]

    def _unary(self, method: str, behaviour: Callable[..., Any], request: Any, context: grpc.ServicerContext) -> Any:
        with self._call(method, context) as call:
            if call.fault.after == 0:
                call.strike()
            response = behaviour(request, context)
            if call.fault.after > 0:
                call.strike()
            call.announce()
            return response

    def _stream(
        self, method: str, behaviour: Callable[..., Any], request: Any, context: grpc.ServicerContext
    ) -> Iterator[Any]:
        with self._call(method, context) as call:
            left = call.fault.after
            if left == 0:
                call.strike()
            for response in behaviour(request, context):
                call.announce()
                yield response
                left -= 1
                if left == 0:
                    call.strike()
            if left > 0:
                call.strike()

    @contextmanager
    def _call(self, method: str, context: grpc.ServicerContext) -> Iterator[_Call]:
        metadata: Metadata = tuple((key, value) for key, value in context.invocation_metadata())
        with self.changed:
            self.calls[method] += 1
            self.received.append(Received(method=method, metadata=metadata, peer=context.peer(), at=time.monotonic()))
            call = _Call(method, context, self.script.take((method,)) or _NO_FAULT, self._server_name)
            self._active.add(call)
            if call.executed is not None:
                self.executions[call.executed] += 1
            self.changed.notify_all()
        if call.executed is not None:
            self._record("start", call.executed)
        if not context.add_callback(partial(self._on_end, call)):
            self._on_end(call)
        try:
            if not call.fault.spares_handler:
                call.hold_as_asked()
            yield call
        finally:
            self._part(call)

    def _on_end(self, call: _Call) -> None:
        call.on_end()
        self._part(call)

    def _part(self, call: _Call) -> None:
        with self.changed:
            call.parts -= 1
            if call.parts:
                return
        if call.executed is not None:
            self._record("end", call.executed)
        with self.changed:
            self._active.discard(call)
            self.changed.notify_all()
