"""Channel of the application: a ``grpc.Channel``."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, final

import grpc

from meshlib._adapt.grpcio import channel as grpc_channel
from meshlib._control.mesh import Mesh
from meshlib._control.methods import Method, Multicallables
from meshlib._control.settings import Settings
from meshlib._core.stages import figure
from meshlib._sync import callables
from meshlib._sync.clock import CLOCK, Clock
from meshlib._sync.connectivity import Callback, Connectivity
from meshlib._sync.runtime import ChannelHandle
from meshlib._sync.subchannels import Factory

__all__ = ["Channel"]

_KINDS: dict[str, Callable[[ChannelHandle, Method], Any]] = {
    "unary_unary": callables.UnaryUnary,
    "unary_stream": callables.UnaryStream,
    "stream_unary": callables.StreamUnary,
    "stream_stream": callables.StreamStream,
}


@final
class _Plain(grpc.Channel):
    """Channel below the interceptors of the application."""

    def __init__(self, settings: Settings, clock: Clock, factory: Factory) -> None:
        # Not at the top: `import meshlib` must be fast, and OpenTelemetry's API is slow to import.
        from meshlib.telemetry._channel import Telemetry

        telemetry = Telemetry(
            settings.config.listener.target,
            tracer_provider=settings.tracer_provider,
            meter_provider=settings.meter_provider,
            policy=settings.config.listener.telemetry,
        )
        self.connectivity = Connectivity(clock)
        self.lease = ChannelHandle(settings, self.connectivity, telemetry, factory=factory)
        lease = self.lease
        self._multicallables = Multicallables(lambda method: _KINDS[method.kind](lease, method))

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.UnaryUnaryMultiCallable[Any, Any]":
        made: grpc.UnaryUnaryMultiCallable[Any, Any] = self._multicallables.get(
            "unary_unary", method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.UnaryStreamMultiCallable[Any, Any]":
        made: grpc.UnaryStreamMultiCallable[Any, Any] = self._multicallables.get(
            "unary_stream", method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.StreamUnaryMultiCallable[Any, Any]":
        made: grpc.StreamUnaryMultiCallable[Any, Any] = self._multicallables.get(
            "stream_unary", method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.StreamStreamMultiCallable[Any, Any]":
        made: grpc.StreamStreamMultiCallable[Any, Any] = self._multicallables.get(
            "stream_stream", method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def subscribe(self, callback: Callback, try_to_connect: bool | None = False) -> None:
        self.connectivity.subscribe(callback)
        if try_to_connect and not self.lease.closed:
            self.lease.runtime()
        runtime = self.lease.present
        if runtime is not None and not runtime.closed:
            runtime.hurry()

    def unsubscribe(self, callback: Callback) -> None:
        self.connectivity.unsubscribe(callback)

    def close(self) -> None:
        self.connectivity.close()
        self.lease.close()
        listener = self.lease.settings.config.listener
        self._multicallables.report(listener.target.text, listener.method_keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@final
class Channel(grpc.Channel):
    """Channel to a service: discovers its instances, keeps connections to them, picks one for each call, retries.

    Created by :func:`meshlib.channel`. It is a ``grpc.Channel``: stubs, interceptors and call objects are grpc's. It
    may be created before a fork and connects at its first call. Close it, or use it in a ``with`` statement. When it is
    garbage-collected unclosed, it closes itself.
    """

    def __init__(self, settings: Settings, *, clock: Clock = CLOCK, factory: Factory = grpc_channel) -> None:
        plain = _Plain(settings, clock, factory)
        lease = plain.lease
        self._plain = plain
        self._stubs: Any = grpc.intercept_channel(plain, *settings.interceptors) if settings.interceptors else plain
        self.mesh = Mesh(settings.config, lambda: lease.present, lambda: lease.closed)
        """The :class:`meshlib.Mesh` of the channel, with ``snapshot()`` and ``resolve_now()``."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.UnaryUnaryMultiCallable[Any, Any]":
        made: grpc.UnaryUnaryMultiCallable[Any, Any] = self._stubs.unary_unary(
            method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.UnaryStreamMultiCallable[Any, Any]":
        made: grpc.UnaryStreamMultiCallable[Any, Any] = self._stubs.unary_stream(
            method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.StreamUnaryMultiCallable[Any, Any]":
        made: grpc.StreamUnaryMultiCallable[Any, Any] = self._stubs.stream_unary(
            method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.StreamStreamMultiCallable[Any, Any]":
        made: grpc.StreamStreamMultiCallable[Any, Any] = self._stubs.stream_stream(
            method, request_serializer, response_deserializer, _registered_method
        )
        return made

    def _get_registered_call_handle(self, method: str) -> int:
        """For generated code, which only passes the value back; each subchannel registers methods itself."""
        return 0

    def subscribe(self, callback: Callback, try_to_connect: bool | None = False) -> None:
        self._plain.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callback) -> None:
        self._plain.unsubscribe(callback)

    def close(self) -> None:
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<meshlib.Channel {self.mesh!r}: {figure()}>"
