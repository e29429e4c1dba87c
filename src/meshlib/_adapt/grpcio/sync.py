"""grpc's sync channels, and their calls."""

from collections.abc import Callable, Sequence
from typing import Any, Final, cast, final

import grpc
import grpc.experimental

from meshlib._adapt.grpcio import public
from meshlib._adapt.grpcio.features import CHANNEL, ERRORS, STATE, private
from meshlib._adapt.grpcio.locks import depth, glancing, interruptible

__all__ = ["Compressing", "channel", "debug_string", "depth", "inactive", "let_go", "sync_glance", "sync_state"]

_COMPRESSION = "grpc-internal-encoding-request"
"""Metadata that makes C-core compress a call, and that it removes (``grpc/compression.h``)."""
_ALGORITHMS = {grpc.Compression.Deflate: "deflate", grpc.Compression.Gzip: "gzip"}

_channel: Final = private("_channel")

_UNSEEN: Final = grpc.experimental.ChannelOptions.SingleThreadedUnaryStream
"""An option of grpc's Python for streams whose end only their readers see: a mesh could neither retry nor count them.
Without it nothing changes for the reader, except that ``code()`` waits for the end instead of raising."""


def channel(
    target: str,
    options: Sequence[tuple[str, Any]],
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
) -> grpc.Channel:
    """Make grpc's own channel, even if ``grpc.insecure_channel`` and ``grpc.secure_channel`` were replaced."""
    options = [option for option in options if option[0] != _UNSEEN]
    if not CHANNEL:
        made: Any = public.channel(target, options, credentials, compression)
        interruptible(made)
        return cast("grpc.Channel", made)
    core = None if credentials is None else credentials._credentials  # type: ignore[attr-defined]
    made = _channel.Channel(target, options, core, compression)
    interruptible(made)
    return cast("grpc.Channel", made)


def sync_state(channel: grpc.Channel) -> Callable[[bool], int]:
    """Return a function that polls a sync channel for C-core's state number; with True an idle channel connects."""
    if not STATE:
        return public.Subscribed(channel)
    ask: Callable[[bool], int] = channel._channel.check_connectivity_state  # type: ignore[attr-defined]
    return ask


def sync_glance(channel: grpc.Channel) -> Callable[[], int | None]:
    """Return such a function for a sweep: an idle channel connects, and None means that it would have to wait."""
    return glancing(channel, sync_state(channel))


def inactive(call: Any) -> Any:
    """Return a failed call object as the error of a blocking call; an object of another class is returned unchanged."""
    if not ERRORS:
        return call
    rendezvous: Any = _channel._MultiThreadedRendezvous
    error: Any = _channel._InactiveRpcError
    return error(call._state) if isinstance(call, rendezvous) else call


def debug_string(call: Any) -> str:
    """Return C-core's debug string of an ended call, empty if there is none. Does not block."""
    text = getattr(getattr(call, "_state", None), "debug_error_string", None)
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    return text if isinstance(text, str) else ""


def let_go(call: Any) -> None:
    """Wake readers that wait for messages of a call that C-core has refused."""
    if not ERRORS:
        call.cancel()
    elif getattr(getattr(call, "_state", None), "due", None):
        call._call.cancel(grpc.StatusCode.CANCELLED.value[0], "the call was refused")


@final
class Compressing:
    """The multicallables of a grpc channel, each with compression per call.

    Args:
        channel: a grpc channel, or a replacement.
    """

    def __init__(self, channel: Any) -> None:
        self.unary_unary = channel.unary_unary
        self.unary_stream = channel.unary_stream
        self.stream_stream = channel.stream_stream
        self._stream_unary = channel.stream_unary

    def stream_unary(self, *arguments: Any) -> "_CompressedStreamUnary":
        """Return one with a stream of requests and one response."""
        return _CompressedStreamUnary(self._stream_unary(*arguments))


@final
class _CompressedStreamUnary(grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """Wraps a grpc multicallable, whose ``future`` drops the call's compression."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._made(*arguments, **named)

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        return self._made.with_call(*arguments, **named)

    def future(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        algorithm = _ALGORITHMS.get(compression) if compression is not None else None
        if algorithm is not None:
            metadata, compression = (*(metadata or ()), (_COMPRESSION, algorithm)), None
        return self._made.future(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
