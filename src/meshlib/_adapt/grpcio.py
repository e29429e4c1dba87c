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
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import grpc._channel
import grpc.aio
import grpc.aio._channel

__all__ = ["aio_channel", "aio_state", "channel", "debug_string", "inactive", "let_go", "sync_state"]

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
