"""grpc's channels for threads, and their calls."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import grpc._channel

__all__ = ["channel", "debug_string", "inactive", "let_go", "sync_state"]


def channel(
    target: str,
    options: Sequence[tuple[str, Any]],
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
) -> grpc.Channel:
    """grpc's own channel, whatever has replaced ``grpc.insecure_channel`` and ``grpc.secure_channel``."""
    core = None if credentials is None else credentials._credentials  # type: ignore[attr-defined]
    made: Any = grpc._channel.Channel(target, options, core, compression)
    made._single_threaded_unary_stream = False
    return cast("grpc.Channel", made)


def sync_state(channel: grpc.Channel) -> Callable[[bool], int]:
    """How to ask a sync channel for its connectivity: C-core's number, with True an idle one starts to connect."""
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
