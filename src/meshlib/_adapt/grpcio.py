"""The only file that touches grpcio's private names. Each is covered by a test on the lowest and the newest grpcio.

They are used because the public way costs what a mesh cannot pay, or is not there:

- ``grpc._channel.Channel`` and ``grpc.aio._channel.Channel`` are what the public factories return. Instrumentation
  packages replace the factories, and would then trace every attempt as if it were a call.
- ``check_connectivity_state`` asks a connection in a third of a microsecond; ``subscribe`` costs a thread per channel
  and makes closing take a tenth of a second.
- ``_InactiveRpcError`` is what blocking calls raise, and applications catch it by that name.
- ``debug_error_string()`` of a call that grpc itself ended blocks for ever; ``_state`` has the answer.
- A stream that C-core could not send anywhere a second time, after a GOAWAY that refused it, gets its status and never
  the end of its messages: ``next()`` blocks for ever, past the deadline. ``_call`` cancels what it waits for; the
  public ``cancel()`` does nothing once there is a status.
- ``_single_threaded_unary_stream`` makes streams that tell nobody of their end unless somebody reads them, so a mesh
  could neither retry nor count them. Without it the option of that name changes nothing that a caller sees, but that
  ``code()`` waits for the end instead of raising.
- Of the Python in a blocking call six instructions in ten would be grpc's. ``segregated_call`` and the operations of
  ``cygrpc`` are what they come down to (:class:`UnaryUnary`).
"""

from collections.abc import Callable, Sequence
from time import perf_counter, time
from types import FunctionType
from typing import Any, Final, cast, final

import grpc
import grpc._channel
import grpc._common
import grpc.aio
import grpc.aio._channel
from grpc import _observability
from grpc._cython import cygrpc

__all__ = [
    "UnaryUnary",
    "aio_channel",
    "aio_state",
    "channel",
    "debug_string",
    "inactive",
    "let_go",
    "shortened",
    "sync_state",
]

Options = Sequence[tuple[str, Any]]


def channel(
    target: str,
    options: Options,
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
) -> grpc.Channel:
    """grpc's own channel, whatever has replaced ``grpc.insecure_channel`` and ``grpc.secure_channel``."""
    core = None if credentials is None else credentials._credentials  # type: ignore[attr-defined]
    made: Any = grpc._channel.Channel(target, options, core, compression)
    made._single_threaded_unary_stream = False
    return cast("grpc.Channel", made)


def aio_channel(
    target: str,
    options: Options,
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
    interceptors: Sequence[Any] = (),
) -> grpc.aio.Channel:
    """grpc.aio's own channel, to be made inside the loop it will serve."""
    core = None if credentials is None else credentials._credentials  # type: ignore[attr-defined]
    made: Any = grpc.aio._channel.Channel(target, options, core, compression, interceptors or None)
    return cast("grpc.aio.Channel", made)


def sync_state(channel: grpc.Channel) -> Callable[[bool], int]:
    """How to ask a sync channel for its connectivity: C-core's number, with True an idle one starts to connect."""
    ask: Callable[[bool], int] = channel._channel.check_connectivity_state  # type: ignore[attr-defined]
    return ask


def aio_state(channel: grpc.aio.Channel) -> Callable[[bool], int]:
    """The same for a channel of grpc.aio."""
    ask: Callable[[bool], int] = channel._channel.check_connectivity_state  # type: ignore[attr-defined]
    return ask


def inactive(call: Any) -> Any:
    """The error that a blocking call would raise, of a call object that failed; if it is not grpc's own, itself."""
    rendezvous: Any = grpc._channel._MultiThreadedRendezvous
    error: Any = grpc._channel._InactiveRpcError
    return error(call._state) if isinstance(call, rendezvous) else call


def debug_string(call: Any) -> str:
    """C-core's account of a call that has ended, empty if there is none. Does not block."""
    text = getattr(getattr(call, "_state", None), "debug_error_string", None)
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    return text if isinstance(text, str) else ""


def let_go(call: Any) -> None:
    """Wakes whoever still waits for messages of a call that C-core has refused."""
    if getattr(getattr(call, "_state", None), "due", None):
        call._call.cancel(grpc.StatusCode.CANCELLED.value[0], "the call was refused")


_DEFAULTS: Final = cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS
# As globals: an attribute of a module is a dictionary of its own to look into, once cold.
_Headers: Final = cygrpc.SendInitialMetadataOperation
_Request: Final = cygrpc.SendMessageOperation
_InitialMetadata: Final = cygrpc.ReceiveInitialMetadataOperation
_Response: Final = cygrpc.ReceiveMessageOperation
_Status: Final = cygrpc.ReceiveStatusOnClientOperation
_NO_MORE: Final = cygrpc.SendCloseFromClientOperation(0)
"""It has no state, so one does for all calls."""
_OK: Final = grpc.StatusCode.OK
_UNREADABLE: Final = "Exception deserializing response!"
"""What grpc answers, to the letter."""


@final
class UnaryUnary:
    """A multicallable of grpc's whose blocking call is a short one.

    For each call grpc makes what only a future needs (a condition, a set of what is due, callbacks), and looks a second
    time, under a lock, for a plug-in of ``grpcio-observability``. This one hands C-core the same operations in the same
    way, and reads the answer from them. Whatever is no plain success is told by grpc's own code, call objects are
    grpc's, and what is rare is left to it altogether: so results and errors are the same, to the letter.

    Args:
        made: grpc's own, of a channel that nobody has wrapped.
    """

    __slots__ = ("_context", "_deserialize", "_made", "_method", "_registered", "_start")

    def __init__(self, made: Any) -> None:
        self._made = made
        self._start = made._channel.segregated_call
        self._method = made._method
        self._context = made._context
        self._registered = made._registered_call_handle
        self._deserialize = made._response_deserializer

    def __call__(
        self,
        request: bytes,
        timeout: float | None = None,
        metadata: tuple[tuple[str, Any], ...] | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
        with_call: bool = False,
    ) -> Any:
        """The response; ``with_call``, the response and the call.

        Raises:
            grpc.RpcError: the call failed.
            ValueError: the channel is closed, or the metadata is no sequence of pairs.
        """
        if (
            compression is not None
            or wait_for_ready is not None
            or request is None
            or _observability._OBSERVABILITY_PLUGIN is not None
        ):
            send = self._made.with_call if with_call else self._made
            return send(request, timeout, metadata, credentials, wait_for_ready, compression)
        initial, response, status = _InitialMetadata(0), _Response(0), _Status(0)
        operations = _Headers(metadata, 0), _Request(request, 0), _NO_MORE, initial, response, status
        call = self._start(
            _DEFAULTS,
            self._method,
            None,
            None if timeout is None else time() + timeout,
            metadata,
            None if credentials is None else credentials._credentials,  # type: ignore[attr-defined]
            ((operations, None),),
            self._context,
            self._registered,
        )
        event = call.next_event()
        if status.code():
            raise self._error(event)
        message = response.message()
        if message is not None and self._deserialize is not None:
            data = message
            try:
                message = self._deserialize(data)
            except Exception:  # noqa: BLE001 - it is the application's; asked again by grpc, which logs what it raises
                message = grpc._common.deserialize(data, self._deserialize)
            if message is None:
                raise self._error(event, grpc.StatusCode.INTERNAL, _UNREADABLE)
        if with_call:
            return message, _ended(call, message, initial, status)
        return message

    def with_call(
        self,
        request: bytes,
        timeout: float | None = None,
        metadata: tuple[tuple[str, Any], ...] | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The response and the call."""
        return self(request, timeout, metadata, credentials, wait_for_ready, compression, True)

    @property
    def future(self) -> Any:
        """grpc's own."""
        return self._made.future

    def _error(self, event: Any, code: grpc.StatusCode | None = None, details: str | None = None) -> grpc.RpcError:
        """What grpc would raise: as ``event`` says, unless a ``code`` is given."""
        state: Any = grpc._channel._RPCState(grpc._channel._UNARY_UNARY_INITIAL_DUE, None, None, code, details)
        state.method = grpc._common.decode(self._method)
        state.target = grpc._common.decode(self._made._target)
        state.rpc_start_time = perf_counter()  # for a plug-in, if one has been registered meanwhile
        grpc._channel._handle_event(event, state, None if code else self._deserialize)
        if code:
            state.response = None  # what could not be read is not kept
        error: Any = grpc._channel._InactiveRpcError
        return cast("grpc.RpcError", error(state))


def _ended(call: Any, response: Any, initial: Any, status: Any) -> Any:
    """grpc's call object of a call that succeeded."""
    state: Any = grpc._channel._RPCState(
        (), initial.initial_metadata(), status.trailing_metadata(), _OK, status.details()
    )
    state.response = response
    state.debug_error_string = status.error_string()
    state.callbacks = None  # there is nothing to wait for
    return grpc._channel._MultiThreadedRendezvous(state, call, None, None)


def shortened(made: Any) -> Any:
    """A multicallable of ours for one of grpc's, with a short blocking call where there is a way to shorten it: not
    where there are interceptors, nor where an agent that watches the process has wrapped what grpc's own call goes
    through, and is to hear of it. Who wraps that later does not hear of connections that stand.
    """
    own = grpc._channel._UnaryUnaryMultiCallable
    steps = ("__call__", "with_call", "_blocking", "_prepare")
    unwrapped = type(made) is own and all(_is_grpcs(getattr(own, step), f"{own.__name__}.{step}") for step in steps)
    return UnaryUnary(made) if unwrapped else made


def _is_grpcs(function: Any, name: str) -> bool:
    """Whether it is grpc's function of that name: what stands in for it may copy the name, or look into its code."""
    return type(function) is FunctionType and function.__code__.co_qualname == name


class _Innermost:
    """Makes grpc.aio's interceptors run around a call of ours: what stands for the channel is the way to make one."""

    _channel: Callable[[Any, Any], Any]

    async def _run_interceptor(self, interceptors: Sequence[Any], *rest: Any) -> Any:
        if interceptors:
            return await super()._run_interceptor(interceptors, *rest)  # type: ignore[misc]
        details, request = rest[-2:]
        call = self._channel(details, request)
        self._last_returned_call_from_interceptors = call
        return call


class _UnaryUnary(_Innermost, grpc.aio._interceptor.InterceptedUnaryUnaryCall):  # type: ignore[misc]
    pass


class _UnaryStream(_Innermost, grpc.aio._interceptor.InterceptedUnaryStreamCall):  # type: ignore[misc]
    pass


class _StreamUnary(_Innermost, grpc.aio._interceptor.InterceptedStreamUnaryCall):  # type: ignore[misc]
    pass


class _StreamStream(_Innermost, grpc.aio._interceptor.InterceptedStreamStreamCall):  # type: ignore[misc]
    pass


_INTERCEPTED: dict[str, Any] = {
    "unary_unary": _UnaryUnary,
    "unary_stream": _UnaryStream,
    "stream_unary": _StreamUnary,
    "stream_stream": _StreamStream,
}


def aio_intercepted(
    kind: str,
    interceptors: Sequence[Any],
    innermost: Callable[[Any, Any], Any],
    request: Any,
    timeout: float | None,
    metadata: grpc.aio.Metadata,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
    method: str,
    serializer: Any,
    deserializer: Any,
    loop: Any,
) -> Any:
    """A call of grpc.aio's that runs ``interceptors`` and then ``innermost(client_call_details, request)``."""
    return _INTERCEPTED[kind](
        interceptors,
        request,
        timeout,
        metadata,
        credentials,
        wait_for_ready,
        innermost,
        method.encode(),
        serializer,
        deserializer,
        loop,
    )
