"""The only file that touches grpcio's private names. Each is covered by a test on the lowest and the newest grpcio.

They are used because the public way costs what a mesh cannot pay, or is not there:

- ``grpc._channel.Channel`` and ``grpc.aio._channel.Channel`` are what the public factories return. Instrumentation
  packages replace the factories, and would then trace every attempt as if it were a call.
- ``check_connectivity_state`` asks a connection in a third of a microsecond; ``subscribe`` costs a thread per channel
  and makes closing take a tenth of a second.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import grpc._channel
import grpc.aio
import grpc.aio._channel

__all__ = ["aio_channel", "aio_state", "channel", "sync_state"]

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
    return cast("grpc.Channel", made)


def aio_channel(
    target: str,
    options: Options,
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
) -> grpc.aio.Channel:
    """grpc.aio's own channel, to be made inside the loop it will serve."""
    core = None if credentials is None else credentials._credentials  # type: ignore[attr-defined]
    made: Any = grpc.aio._channel.Channel(target, options, core, compression, None)
    return cast("grpc.aio.Channel", made)


def sync_state(channel: grpc.Channel) -> Callable[[bool], int]:
    """How to ask a sync channel for its connectivity: C-core's number, with True an idle one starts to connect."""
    ask: Callable[[bool], int] = channel._channel.check_connectivity_state  # type: ignore[attr-defined]
    return ask


def aio_state(channel: grpc.aio.Channel) -> Callable[[bool], int]:
    """The same for a channel of grpc.aio."""
    ask: Callable[[bool], int] = channel._channel.check_connectivity_state  # type: ignore[attr-defined]
    return ask
