"""The short blocking call, used for most calls of most applications."""

from itertools import starmap
from time import perf_counter, time
from types import FunctionType
from typing import Any, Final, cast, final

import grpc

from meshlib._adapt.grpcio.features import BLOCKING, cygrpc, private

__all__ = ["BlockingUnaryUnary", "shortened"]

_channel: Final = private("_channel")
_common: Final = private("_common")
_observability: Final = private("_observability")

# As globals: a module attribute is in another dictionary, which may be cold. If one is missing it is None; then
# BLOCKING is false, and nothing here is used.
_DEFAULTS: Final[Any] = getattr(getattr(cygrpc, "PropagationConstants", None), "GRPC_PROPAGATE_DEFAULTS", None)
_Headers: Final[Any] = getattr(cygrpc, "SendInitialMetadataOperation", None)
_Request: Final[Any] = getattr(cygrpc, "SendMessageOperation", None)
_InitialMetadata: Final[Any] = getattr(cygrpc, "ReceiveInitialMetadataOperation", None)
_Response: Final[Any] = getattr(cygrpc, "ReceiveMessageOperation", None)
_Status: Final[Any] = getattr(cygrpc, "ReceiveStatusOnClientOperation", None)
_Close: Final[Any] = getattr(cygrpc, "SendCloseFromClientOperation", None)
_NO_MORE: Final[Any] = _Close and _Close(0)
"""Stateless, so all calls share it."""
_OK: Final = grpc.StatusCode.OK
_UNREADABLE: Final = "Exception deserializing response!"
"""grpc's own answer, verbatim."""


@final
class BlockingUnaryUnary:
    """A grpc multicallable with a short blocking call.

    For each call grpc makes objects that only a future needs (a condition, a set of what is due, callbacks), and checks
    a second time, under a lock, for a plug-in of ``grpcio-observability``. This one passes C-core the same operations
    in the same way, and reads the answer from them. grpc's own code reports everything but plain success, makes the
    call objects and handles rare cases, so results and errors are identical.

    Args:
        made: a grpc multicallable of an unwrapped channel.
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
        """Return the response; ``with_call``, the response and the call.

        Raises:
            grpc.RpcError: the call failed.
            ValueError: the channel is closed, or the metadata is not a sequence of pairs.
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
        # Called and stored in C: CPython checks no signals in between. If a handler raised there, grpc would keep the
        # call for ever. From next_event() on it ends the call itself.
        [call] = starmap(
            self._start,
            (
                (
                    _DEFAULTS,
                    self._method,
                    None,
                    None if timeout is None else time() + timeout,
                    metadata,
                    None if credentials is None else credentials._credentials,  # type: ignore[attr-defined]
                    ((operations, None),),
                    self._context,
                    self._registered,
                ),
            ),
        )
        event = call.next_event()
        if status.code():
            raise self._error(event)
        message = response.message()
        if message is not None and self._deserialize is not None:
            try:
                message = self._deserialize(message)
            except Exception as error:  # noqa: BLE001 - the application's
                _log(error)
                message = None
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
        """Return the response and the call."""
        return self(request, timeout, metadata, credentials, wait_for_ready, compression, True)

    @property
    def future(self) -> Any:
        """grpc's own."""
        return self._made.future

    def _error(self, event: Any, code: grpc.StatusCode | None = None, details: str | None = None) -> grpc.RpcError:
        """Return the error that grpc would raise: that of ``event``, unless a ``code`` is given."""
        state: Any = _channel._RPCState(_channel._UNARY_UNARY_INITIAL_DUE, None, None, code, details)
        state.method = _common.decode(self._method)
        state.target = _common.decode(self._made._target)
        state.rpc_start_time = perf_counter()  # for a plug-in, if one has been registered meanwhile
        _channel._handle_event(event, state, None if code else self._deserialize)
        if code:
            state.response = None  # an unreadable one is not kept
        error: Any = _channel._InactiveRpcError
        return cast("grpc.RpcError", error(state))


def _log(error: Exception) -> None:
    """Make grpc log a deserializer's error with its usual text."""

    def again(_: bytes) -> None:
        raise error

    _common.deserialize(b"", again)


def _ended(call: Any, response: Any, initial: Any, status: Any) -> Any:
    """Return grpc's call object of a successful call, without the parts that only a plug-in reads."""
    state: Any = _channel._RPCState((), initial.initial_metadata(), status.trailing_metadata(), _OK, status.details())
    state.response = response
    state.debug_error_string = status.error_string()
    state.callbacks = None  # there is nothing to wait for
    return _channel._MultiThreadedRendezvous(state, call, None, None)


_METHODS: Final = ("__call__", "with_call", "_blocking", "_prepare")
_FUNCTIONS: Final = ("_handle_event", "_end_unary_response_blocking")
"""Functions on the path of grpc's own call."""


def shortened(made: Any) -> Any:
    """Return grpc's multicallable with a short blocking call if possible, else unchanged.

    It is unchanged if there are interceptors, or if an agent has replaced or wrapped functions on the path of a grpc
    call to observe it. An agent that does so later does not observe existing connections.
    """
    steps: list[tuple[Any, str]] = [
        *((getattr(type(made), name, None), f"_UnaryUnaryMultiCallable.{name}") for name in _METHODS),
        *((getattr(_channel, name, None), name) for name in _FUNCTIONS),
    ]
    return BlockingUnaryUnary(made) if all(_is_grpcs(step, name) for step, name in steps) and BLOCKING else made


def _is_grpcs(function: Any, name: str) -> bool:
    """Whether it is grpc's function of that name: a replacement may copy the name, or expose its code."""
    return (
        type(function) is FunctionType
        and function.__code__.co_qualname == name
        and function.__globals__ is vars(_channel)
    )
