"""The short blocking call: what most calls of most applications are."""

from itertools import starmap
from time import perf_counter, time
from types import FunctionType
from typing import Any, Final, cast, final

import grpc

from meshlib._adapt.grpcio.features import BLOCKING, cygrpc, private

__all__ = ["UnaryUnary", "shortened"]

_channel: Final = private("_channel")
_common: Final = private("_common")
_observability: Final = private("_observability")

# As globals: an attribute of a module is a dictionary of its own to look into, once cold. What is missing is None; then
# BLOCKING is false, and nothing here is used.
_DEFAULTS: Final[Any] = getattr(getattr(cygrpc, "PropagationConstants", None), "GRPC_PROPAGATE_DEFAULTS", None)
_Headers: Final[Any] = getattr(cygrpc, "SendInitialMetadataOperation", None)
_Request: Final[Any] = getattr(cygrpc, "SendMessageOperation", None)
_InitialMetadata: Final[Any] = getattr(cygrpc, "ReceiveInitialMetadataOperation", None)
_Response: Final[Any] = getattr(cygrpc, "ReceiveMessageOperation", None)
_Status: Final[Any] = getattr(cygrpc, "ReceiveStatusOnClientOperation", None)
_Close: Final[Any] = getattr(cygrpc, "SendCloseFromClientOperation", None)
_NO_MORE: Final[Any] = _Close and _Close(0)
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
        # Called and kept in C: CPython does not look for signals in between, and grpc would keep a call for ever that a
        # signal handler raised away. From next_event() on it ends the call itself.
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
            except Exception as error:  # noqa: BLE001 - it is the application's
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
        """The response and the call."""
        return self(request, timeout, metadata, credentials, wait_for_ready, compression, True)

    @property
    def future(self) -> Any:
        """grpc's own."""
        return self._made.future

    def _error(self, event: Any, code: grpc.StatusCode | None = None, details: str | None = None) -> grpc.RpcError:
        """What grpc would raise: as ``event`` says, unless a ``code`` is given."""
        state: Any = _channel._RPCState(_channel._UNARY_UNARY_INITIAL_DUE, None, None, code, details)
        state.method = _common.decode(self._method)
        state.target = _common.decode(self._made._target)
        state.rpc_start_time = perf_counter()  # for a plug-in, if one has been registered meanwhile
        _channel._handle_event(event, state, None if code else self._deserialize)
        if code:
            state.response = None  # what could not be read is not kept
        error: Any = _channel._InactiveRpcError
        return cast("grpc.RpcError", error(state))


def _log(error: Exception) -> None:
    """Has grpc log what a deserializer has raised, in its own words."""

    def again(_: bytes) -> None:
        raise error

    _common.deserialize(b"", again)


def _ended(call: Any, response: Any, initial: Any, status: Any) -> Any:
    """grpc's call object of a call that succeeded, but for what a plug-in alone would ask."""
    state: Any = _channel._RPCState((), initial.initial_metadata(), status.trailing_metadata(), _OK, status.details())
    state.response = response
    state.debug_error_string = status.error_string()
    state.callbacks = None  # there is nothing to wait for
    return _channel._MultiThreadedRendezvous(state, call, None, None)


_METHODS: Final = ("__call__", "with_call", "_blocking", "_prepare")
_FUNCTIONS: Final = ("_handle_event", "_end_unary_response_blocking")
"""What grpc's own call goes through."""


def shortened(made: Any) -> Any:
    """A multicallable of ours for one of grpc's, with a short blocking call where there is a way to shorten it: not
    where there are interceptors, nor where an agent that watches the process has replaced or wrapped what grpc's own
    call goes through, and is to hear of it. Who does that later does not hear of connections that stand.
    """
    steps: list[tuple[Any, str]] = [
        *((getattr(type(made), name, None), f"_UnaryUnaryMultiCallable.{name}") for name in _METHODS),
        *((getattr(_channel, name, None), name) for name in _FUNCTIONS),
    ]
    return UnaryUnary(made) if all(_is_grpcs(step, name) for step, name in steps) and BLOCKING else made


def _is_grpcs(function: Any, name: str) -> bool:
    """Whether it is grpc's function of that name: what stands in for it may copy the name, or look into its code."""
    return (
        type(function) is FunctionType
        and function.__code__.co_qualname == name
        and function.__globals__ is vars(_channel)
    )
