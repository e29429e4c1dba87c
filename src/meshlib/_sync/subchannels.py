"""The connection to one host: grpc's own channel to one address, and its multicallables, made once per method."""

import threading
from collections.abc import Callable
from typing import Any, final

import grpc

from meshlib._adapt import grpcio
from meshlib._control.settings import Settings
from meshlib._core.host import Host

__all__ = ["CLOSED_CHANNEL", "METHODS_KEPT", "Method", "Subchannel"]

CLOSED_CHANNEL = "Cannot invoke RPC on closed channel!"
"""What grpc raises as ``ValueError`` for a call on a closed channel, to the letter."""

METHODS_KEPT = 1024
"""Methods remembered per channel and per host. Applications have fewer; a serializer made anew per call has no end."""

Factory = Callable[[str, tuple[tuple[str, Any], ...], grpc.ChannelCredentials | None, grpc.Compression | None], Any]


@final
class Method:
    """One method of a channel as a stub named it: the key of every cache of multicallables.

    Args:
        kind: ``"unary_unary"``, ``"unary_stream"``, ``"stream_unary"`` or ``"stream_stream"``.
        name: the full method name.
        serializer: of requests; they reach a subchannel as bytes.
        deserializer: of responses.
        registered: generated code says that C-core should intern the method.
    """

    __slots__ = ("deserializer", "kind", "name", "registered", "serializer")

    def __init__(self, kind: str, name: str, serializer: Any, deserializer: Any, registered: bool) -> None:
        self.kind = kind
        self.name = name
        self.serializer = serializer
        self.deserializer = deserializer
        self.registered = registered


@final
class Subchannel:
    """One grpc channel to one address.

    Args:
        host: whose connection it is.
        settings: the channel's.
        factory: makes the grpc channel.
    """

    __slots__ = ("_calls", "_channel", "_closed", "_known", "_lock", "state", "target")

    def __init__(self, host: Host, settings: Settings, factory: Factory = grpcio.channel) -> None:
        self.target, options = settings.subchannel(host)
        self._channel = factory(self.target, options, settings.credentials, settings.compression)
        self.state: Callable[[bool], int] = grpcio.sync_state(self._channel)
        interceptors = settings.attempt_interceptors
        self._calls = grpc.intercept_channel(self._channel, *interceptors) if interceptors else self._channel
        self._known: dict[Method, Any] = {}
        self._closed = False
        self._lock = threading.Lock()

    def multicallable(self, method: Method) -> Any:
        """grpc's multicallable for ``method``: takes bytes, returns messages.

        Raises:
            ValueError: the channel is closed, in grpc's own words.
        """
        known = self._known.get(method)
        return self._make(method) if known is None else known

    def close(self) -> None:
        """Ends the connection and every call on it."""
        with self._lock:
            self._closed = True
        self._channel.close()

    def _make(self, method: Method) -> Any:
        """C-core registers a method with its channel, and crashes if that is being closed: never both at once."""
        with self._lock:
            if self._closed:
                raise ValueError(CLOSED_CHANNEL)
            if len(self._known) >= METHODS_KEPT:
                self._known.pop(next(iter(self._known)), None)
            make = getattr(self._calls, method.kind)
            made = self._known[method] = make(method.name, None, method.deserializer, method.registered)
            return made
