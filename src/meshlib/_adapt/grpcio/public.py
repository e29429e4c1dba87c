"""Public alternatives to missing or changed private names of grpcio. They do the same, slower."""

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, final

import grpc
import grpc.aio
import grpc.experimental

from meshlib._adapt.grpcio.features import KINDS

__all__ = ["Subscribed", "aio_channel", "aio_intercepted", "aio_state", "channel"]

Options = Sequence[tuple[str, Any]]
_IDLE: Final[int] = grpc.ChannelConnectivity.IDLE.value[0]
_NOWHERE: Final = "unix:/nonexistent"
"""The target of channels that only run interceptors."""


def channel(
    target: str,
    options: Options,
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
) -> grpc.Channel:
    """Make a channel by grpc's public factories, which instrumentation may have replaced."""
    if credentials is None:
        return grpc.insecure_channel(target, options, compression)
    return grpc.secure_channel(target, credentials, options, compression)


def aio_channel(
    target: str,
    options: Options,
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
    interceptors: Sequence[Any],
) -> grpc.aio.Channel:
    """Make a grpc.aio channel likewise."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options, compression, interceptors or None)
    return grpc.aio.secure_channel(target, credentials, options, compression, interceptors or None)


@final
class Subscribed:
    """The connectivity of a sync channel, by subscription: a thread for each channel, and states that may be late.

    Called, it returns C-core's number of the last known state; with True an idle channel starts to connect.
    """

    __slots__ = ("_channel", "_latest", "_lock")

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._latest = _IDLE
        self._lock = threading.RLock()  # a signal handler may poll, too
        channel.subscribe(self._heard)

    def __call__(self, connect: bool) -> int:
        if connect and self._latest == _IDLE:
            with self._lock:
                self._channel.unsubscribe(self._heard)
                self._channel.subscribe(self._heard, try_to_connect=True)
        return self._latest

    def _heard(self, state: grpc.ChannelConnectivity) -> None:
        self._latest = state.value[0]


def aio_state(channel: grpc.aio.Channel) -> Callable[[bool], int]:
    """Return a function that polls a grpc.aio channel."""

    def ask(connect: bool) -> int:
        return channel.get_state(connect).value[0]

    return ask


@final
class _InnermostPublic:
    """Makes the call that replaces grpc's."""

    def __init__(self, made: Callable[[Any, Any], Any]) -> None:
        self._made = made
        self.last: Any = None

    def interceptor(self, kind: str) -> Any:
        """Return a grpc.aio interceptor for calls of ``kind``; it must be the last."""

        async def intercept(continuation: Any, details: Any, request: Any) -> Any:  # noqa: ARG001 - grpc's contract
            self.last = self._made(details, request)
            return self.last

        return _of_kind(kind, intercept)


def _of_kind(kind: str, intercept: Callable[..., Any]) -> Any:
    """Return an interceptor for calls of ``kind`` only: grpc.aio uses one for several kinds only for the first."""
    base = getattr(grpc.aio, f"{KINDS[kind]}ClientInterceptor")
    return type("Interceptor", (base,), {f"intercept_{kind}": staticmethod(intercept)})()


@cache
def _with_mesh(kind: Any) -> Any:
    """Return a class of calls with the ``mesh`` of the last call the interceptors let through; None before."""
    return type(kind.__name__, (kind,), {"mesh": property(lambda call: getattr(call._meshlib[0].last, "mesh", None))})


def aio_intercepted(
    kind: str,
    interceptors: Sequence[Any],
    made: Callable[[Any, Any], Any],
    request: Any,
    method: str,
    serializer: Any,
    deserializer: Any,
    **arguments: Any,
) -> Any:
    """Make a call that runs ``interceptors`` and then ``made(client_call_details, request)``, on a channel that never
    connects. grpc.aio closes the channel when the call is gone.
    """
    innermost = _InnermostPublic(made)
    each = [_of_kind(kind, getattr(interceptor, f"intercept_{kind}")) for interceptor in interceptors]
    channel = grpc.aio.insecure_channel(_NOWHERE, interceptors=[*each, innermost.interceptor(kind)])
    call = getattr(channel, kind)(method, serializer, deserializer)(request, **arguments)
    kind_of_call: Any = type(call)
    call.__class__ = _with_mesh(kind_of_call)
    call._meshlib = innermost, channel  # grpc.aio closes a collected channel and its calls
    return call
