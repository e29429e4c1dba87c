"""The connection to one host: grpc.aio's own channel to one address, and its multicallables, made once per method."""

from collections.abc import Callable
from typing import Any, final

import grpc

from meshlib._adapt import grpcio
from meshlib._adapt.interceptors import one_per_kind
from meshlib._aio.waiting import ended
from meshlib._control.settings import Settings
from meshlib._core.host import Host

__all__ = ["METHODS_KEPT", "Factory", "Method", "Subchannel"]

METHODS_KEPT = 1024
"""Methods remembered per channel and per host. Applications have fewer; a serializer made anew per call has no end."""

Factory = Callable[
    [str, tuple[tuple[str, Any], ...], grpc.ChannelCredentials | None, grpc.Compression | None, tuple[Any, ...]], Any
]


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
    """One channel of grpc.aio to one address. Made on the loop it serves.

    Args:
        host: whose connection it is.
        settings: the channel's.
        factory: makes the channel of grpc.aio.
    """

    __slots__ = ("_channel", "_known", "state", "target")

    def __init__(self, host: Host, settings: Settings, factory: Factory = grpcio.aio_channel) -> None:
        self.target, options = settings.subchannel(host)
        interceptors = one_per_kind(settings.attempt_interceptors)
        self._channel = factory(self.target, options, settings.credentials, settings.compression, interceptors)
        self.state: Callable[[bool], int] = grpcio.aio_state(self._channel)
        self._known: dict[Method, Any] = {}

    def multicallable(self, method: Method) -> Any:
        """grpc's multicallable for ``method``: takes bytes, returns messages."""
        known = self._known.get(method)
        if known is None:
            if len(self._known) >= METHODS_KEPT:
                self._known.pop(next(iter(self._known)), None)
            make = getattr(self._channel, method.kind)
            known = self._known[method] = make(method.name, None, method.deserializer, method.registered)
        return known

    def close(self) -> None:
        """Ends the connection and every call on it. Without a grace grpc.aio has nothing to wait for."""
        ended(self._channel.close())
