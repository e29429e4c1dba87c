"""The connection to one host: grpc's own channel to one address, and its multicallables, made once per method."""

import threading
from collections.abc import Callable
from typing import Any, final

import grpc

from meshlib._adapt import grpcio
from meshlib._control.methods import Method
from meshlib._control.settings import Settings
from meshlib._core.host import Host
from meshlib._core.kept import Kept
from meshlib._core.sharing import Sharing

__all__ = ["CLOSED_CHANNEL", "Subchannel"]

CLOSED_CHANNEL = "Cannot invoke RPC on closed channel!"
"""What grpc raises as ``ValueError`` for a call on a closed channel, to the letter."""

Factory = Callable[[str, tuple[tuple[str, Any], ...], grpc.ChannelCredentials | None, grpc.Compression | None], Any]


@final
class Subchannel:
    """One grpc channel to one address.

    Args:
        host: whose connection it is.
        settings: the channel's.
        sharing: of the process.
        factory: makes the grpc channel.
    """

    __slots__ = ("_channel", "_registry", "multicallables", "state", "target")

    def __init__(
        self, host: Host, settings: Settings, sharing: Sharing | None = None, factory: Factory = grpcio.channel
    ) -> None:
        self.target, options = settings.subchannel(host, sharing)
        self._channel = factory(self.target, options, settings.credentials, settings.compression)
        self.state: Callable[[bool], int] = grpcio.sync_state(self._channel)
        interceptors = settings.attempt_interceptors
        calls: Any = grpcio.Compressing(self._channel)
        self._registry = _Registry(grpc.intercept_channel(calls, *interceptors) if interceptors else calls)
        self.multicallables: Kept[Method, Any] = Kept(self._registry.multicallable)
        """grpc's multicallables by method: they take bytes, and return messages. ``ValueError``: the channel is closed,
        in grpc's own words."""

    def glance(self) -> int | None:
        """The state now."""
        return self.state(True)

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._registry.close()
        self._channel.close()


@final
class _Registry:
    """C-core registers a method with its channel, and crashes if that is being closed: never both at once."""

    __slots__ = ("_calls", "_closed", "_lock")

    def __init__(self, calls: Any) -> None:
        self._calls = calls
        self._closed = False
        self._lock = threading.Lock()

    def multicallable(self, method: Method) -> Any:
        """One that is new to this channel."""
        with self._lock:
            if self._closed:
                raise ValueError(CLOSED_CHANNEL)
            make = getattr(self._calls, method.kind)
            return grpcio.shortened(make(method.name, None, method.deserializer, method.registered))

    def close(self) -> None:
        """None any more."""
        with self._lock:
            self._closed = True
