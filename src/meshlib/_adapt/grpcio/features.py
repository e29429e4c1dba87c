"""Checks of grpcio's private names: a missing or changed one is not used.

Each feature is checked once, when the first channel is built or at its first use: by shape, and by behaviour where that
needs no connection. If a check fails, a slower public alternative is used (``docs/reference/stability.md``).
"""

import importlib
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, final

import grpc
import grpc.aio

__all__ = [
    "AIO_CHANNEL",
    "AIO_INTERCEPTED",
    "AIO_REQUESTS",
    "AIO_STATE",
    "ALL",
    "BLOCKING",
    "CHANNEL",
    "DELIVERY",
    "ERRORS",
    "EXIT",
    "KINDS",
    "STATE",
    "Feature",
    "cygrpc",
    "lost",
    "private",
]

KINDS: Final = {
    "unary_unary": "UnaryUnary",
    "unary_stream": "UnaryStream",
    "stream_unary": "StreamUnary",
    "stream_stream": "StreamStream",
}
"""Part of grpc.aio's class names for each kind of method."""


def private(name: str) -> Any:
    """Return a private module of grpc, or an empty one if there is none."""
    try:
        return importlib.import_module(f"grpc.{name}")
    except ImportError:
        return SimpleNamespace()


cygrpc: Final = private("_cython.cygrpc")


@final
class Feature:
    """A private part of grpcio; true if the part exists unchanged.

    Args:
        name: purpose of the part.
        check: returns False or raises if it is missing or different.
    """

    __slots__ = ("_check", "_present", "name")

    def __init__(self, name: str, check: Callable[[], object]) -> None:
        self.name = name
        self._check = check
        self._present: bool | None = None

    def __bool__(self) -> bool:
        if self._present is None:
            try:
                self._present = self._check() is not False
            except Exception:  # noqa: BLE001 - any error means that the part has changed
                self._present = False
        return self._present

    def lose(self) -> None:
        """Record that the part's behaviour has changed; it is not used from now on."""
        self._present = False


def _takes(function: Any, *parameters: str) -> bool:
    """Whether these are its first parameters, in this order."""
    return tuple(inspect.signature(function).parameters)[: len(parameters)] == parameters


def _uses(function: Any, *names: str) -> bool:
    """Whether a function reads or writes attributes of these names."""
    return set(names) <= set(function.__code__.co_names)


def _core_credentials() -> bool:
    core: Any = object()
    kinds: list[Any] = [grpc.ChannelCredentials, grpc.CallCredentials]
    return all(kind(core)._credentials is core for kind in kinds)


def _channel() -> bool:
    kind = private("_channel").Channel
    return (
        issubclass(kind, grpc.Channel)
        and _takes(kind, "target", "options", "credentials", "compression")
        and _core_credentials()
    )


def _aio_channel() -> bool:
    kind = private("aio._channel").Channel
    return (
        issubclass(kind, grpc.aio.Channel)
        and _takes(kind, "target", "options", "credentials", "compression", "interceptors")
        and _core_credentials()
    )


def _state() -> bool:
    return callable(cygrpc.Channel.check_connectivity_state) and _uses(private("_channel").Channel.__init__, "_channel")


def _aio_state() -> bool:
    kind = private("aio._channel").Channel
    return callable(cygrpc.AioChannel.check_connectivity_state) and _uses(kind.__init__, "_channel")


def _errors() -> bool:
    module = private("_channel")
    state = module._RPCState((), None, (("k", "v"),), grpc.StatusCode.ABORTED, "d")
    error = module._InactiveRpcError(state)
    return (
        issubclass(module._MultiThreadedRendezvous, grpc.RpcError)
        and _uses(module._Rendezvous.__init__, "_state", "_call")
        and isinstance(error, grpc.RpcError)
        and (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "d")
    )


def _blocking() -> bool:
    module, common = private("_channel"), private("_common")
    multicallable = module._UnaryUnaryMultiCallable
    operations = (
        cygrpc.SendInitialMetadataOperation((), 0),
        cygrpc.SendMessageOperation(b"", 0),
        cygrpc.SendCloseFromClientOperation(0),
        cygrpc.ReceiveInitialMetadataOperation(0),
        cygrpc.ReceiveMessageOperation(0),
        cygrpc.ReceiveStatusOnClientOperation(0),
    )
    answers = [(3, "initial_metadata"), (4, "message"), (5, "code"), (5, "details"), (5, "error_string")]
    state = module._RPCState(module._UNARY_UNARY_INITIAL_DUE, None, None, None, None)
    return (
        all(callable(getattr(operations[n], name)) for n, name in [*answers, (5, "trailing_metadata")])
        and callable(cygrpc.Channel.segregated_call)
        and callable(cygrpc.SegregatedCall.next_event)
        and isinstance(cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS, int)
        and hasattr(private("_observability"), "_OBSERVABILITY_PLUGIN")
        and _takes(module._handle_event, "event", "state", "response_deserializer")
        and _takes(module._MultiThreadedRendezvous, "state", "call", "response_deserializer", "deadline")
        and _takes(common.deserialize, "serialized_message", "deserializer")
        and common.decode(b"a") == "a"
        and {"response", "debug_error_string", "callbacks", "method", "target", "rpc_start_time"} <= set(vars(state))
        and _uses(multicallable.__init__, "_channel", "_method", "_context", "_target")
        and _uses(multicallable.__init__, "_registered_call_handle", "_response_deserializer")
        and _uses(multicallable._blocking, "segregated_call")
        and bool(ERRORS)
        and _core_credentials()
    )


def _delivery() -> bool:
    module = private("_channel")
    manage = module._channel_managed_call_management
    inner = [constant for constant in manage.__code__.co_consts if inspect.iscode(constant)]
    return (
        _takes(module._run_channel_spin_thread, "state")
        and _uses(module.Channel.__init__, "_call_state")
        and _takes(manage, "state")
        and any("_run_channel_spin_thread" in code.co_names for code in inner)
        and callable(cygrpc.IntegratedCall.cancel)
    )


def _exit() -> bool:
    module = private("_channel")
    single, types = module._SingleThreadedUnaryStreamMultiCallable, cygrpc.OperationType
    parameters = (
        "channel",
        "method",
        "target",
        "request_serializer",
        "response_deserializer",
        "_registered_call_handle",
    )
    kinds = (module._UnaryStreamMultiCallable, module._StreamStreamMultiCallable, module._StreamUnaryMultiCallable)
    return (
        bool(BLOCKING)
        and _takes(single, *parameters)
        and all(_uses(kind.__init__, "_channel", "_method", "_target", "_context") for kind in kinds)
        and all(_uses(kind.__init__, "_registered_call_handle", "_response_deserializer") for kind in kinds)
        and _uses(kinds[0].__init__, "_request_serializer")
        and callable(cygrpc.SegregatedCall.operate)
        and module._deadline(None) is None
        and isinstance(module._InitialMetadataFlags().with_wait_for_ready(None), int)
        and private("_compression").augment_metadata((("k", "v"),), None) == (("k", "v"),)
        and {types.send_message, types.send_close_from_client} != {None}
        and _takes(module._SingleThreadedRendezvous, "state", "call", "response_deserializer", "deadline")
        and None not in (module._STREAM_UNARY_INITIAL_DUE, module._STREAM_STREAM_INITIAL_DUE)
    )


def _aio_requests() -> bool:
    call, aio = private("aio._call"), cygrpc._AioCall
    return (
        issubclass(cygrpc.InternalError, Exception)
        and callable(aio.send_serialized_message)
        and callable(aio.send_receive_close)
        and _uses(call.Call.__init__, "_cython_call", "_loop")
        and _uses(call._StreamRequestMixin._init_stream_request_mixin, "_metadata_sent", "_async_request_poller")
        and _uses(call._StreamRequestMixin.cancel, "_async_request_poller")
    )


def _aio_intercepted() -> bool:
    module = private("aio._interceptor")
    parameters = ("timeout", "metadata", "credentials", "wait_for_ready", "channel", "method")
    last = ("request_serializer", "response_deserializer", "loop")
    for name in KINDS.values():
        kind = getattr(module, f"Intercepted{name}Call")
        request = "request" if name.startswith("Unary") else "request_iterator"
        if not _takes(kind, "interceptors", request, *parameters, *last):
            return False
        if not inspect.iscoroutinefunction(kind._run_interceptor):
            return False
    return _uses(module.InterceptedUnaryUnaryCall.__init__, "_channel")


CHANNEL: Final = Feature("channels that instrumentation does not wrap", _channel)
STATE: Final = Feature("asking a channel for its connectivity", _state)
ERRORS: Final = Feature("the error class of blocking calls", _errors)
BLOCKING: Final = Feature("short blocking calls", _blocking)
DELIVERY: Final = Feature("futures and streams after a shortage of threads", _delivery)
EXIT: Final = Feature("streams while the interpreter exits", _exit)
AIO_CHANNEL: Final = Feature("asyncio channels that instrumentation does not wrap", _aio_channel)
AIO_STATE: Final = Feature("asking an asyncio channel for its connectivity", _aio_state)
AIO_REQUESTS: Final = Feature("asyncio request streams that a server ends early", _aio_requests)
AIO_INTERCEPTED: Final = Feature("asyncio calls inside interceptors", _aio_intercepted)
ALL: Final = (CHANNEL, STATE, ERRORS, BLOCKING, DELIVERY, EXIT, AIO_CHANNEL, AIO_STATE, AIO_REQUESTS, AIO_INTERCEPTED)


def lost() -> list[str]:
    """Return the names of the features that this grpcio lacks."""
    return [feature.name for feature in ALL if not feature]
