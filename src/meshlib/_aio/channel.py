"""Channel of the application for asyncio: a ``grpc.aio.Channel``."""

import asyncio
from types import TracebackType
from typing import Any, Self, final

import grpc
import grpc.aio

from meshlib._adapt.grpcio import aio_channel
from meshlib._aio.callables import CALLABLES
from meshlib._aio.clock import CLOCK
from meshlib._aio.connectivity import STATES
from meshlib._aio.runtime import ChannelHandle, Runtime
from meshlib._aio.subchannels import Factory
from meshlib._control.mesh import Mesh
from meshlib._control.methods import Multicallables
from meshlib._control.settings import Settings
from meshlib._core.connectivity import READY, SHUTDOWN
from meshlib._core.stages import figure

__all__ = ["Channel"]


@final
class _Interceptors:
    """Interceptor list of a channel under its private name in grpc.aio. Calls use the list itself: changes to it, or
    another list in its place, apply from the next call on."""

    _kind: str

    def __set_name__(self, owner: type, name: str) -> None:
        self._kind = name.removeprefix("_").removesuffix("_interceptors")

    def __get__(self, channel: "Channel", owner: type) -> list[Any]:
        return channel._lease.interceptors[self._kind]

    def __set__(self, channel: "Channel", interceptors: list[Any]) -> None:
        channel._lease.interceptors[self._kind] = interceptors


@final
class Channel(grpc.aio.Channel):
    """Channel to a service: discovers its instances, keeps connections to them, picks one for each call, retries.

    Created by :func:`meshlib.aio.channel`. It is a ``grpc.aio.Channel``: stubs, interceptors and call objects are those
    of grpc.aio. It may be created anywhere, even at import, and serves the event loop of its first call. When that loop
    is closed, it restarts on the next one. Close it, or use it in an ``async with`` statement. When it is
    garbage-collected unclosed, it closes itself.
    """

    def __init__(self, settings: Settings, *, factory: Factory = aio_channel) -> None:
        # Not at the top: `import meshlib` must be fast, and OpenTelemetry's API is slow to import.
        from meshlib.telemetry._channel import Telemetry

        telemetry = Telemetry(
            settings.config.listener.target,
            tracer_provider=settings.tracer_provider,
            meter_provider=settings.meter_provider,
            policy=settings.config.listener.telemetry,
            later=_raise_in_loop,
        )
        self._lease = lease = ChannelHandle(settings, telemetry, factory)
        self._multicallables = Multicallables(lambda method: CALLABLES[method.kind](lease, method))
        self._closing = False
        """Whether a :meth:`close` is running."""
        self.mesh = Mesh(settings.config, lambda: lease.present, lambda: lease.closed)
        """The :class:`meshlib.Mesh` of the channel, with ``snapshot()`` and ``resolve_now()``."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallables.get(
            "unary_unary", method, request_serializer, response_deserializer, _registered_method
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallables.get(
            "unary_stream", method, request_serializer, response_deserializer, _registered_method
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallables.get(
            "stream_unary", method, request_serializer, response_deserializer, _registered_method
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._multicallables.get(
            "stream_stream", method, request_serializer, response_deserializer, _registered_method
        )

    def _get_registered_call_handle(self, method: str, _registered_method: bool | None = False) -> int:
        """For generated code, which only passes the value back; each subchannel registers methods itself."""
        return 0

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Event loop; users of grpc.aio read this private attribute."""
        runtime = self._lease.present
        return CLOCK.loop() if runtime is None else runtime.loop

    # google-api-core appends to these lists and replaces them; pymilvus adds its authentication.
    _unary_unary_interceptors = _Interceptors()
    _unary_stream_interceptors = _Interceptors()
    _stream_unary_interceptors = _Interceptors()
    _stream_stream_interceptors = _Interceptors()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the connectivity state; with ``try_to_connect`` an unused channel begins to connect."""
        lease = self._lease
        lease.refresh()
        state = STATES[lease.connectivity.state]
        if try_to_connect and not lease.closed:
            lease.runtime()
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        lease = self._lease
        lease.refresh()  # now: at the next first call it would drop earlier waits
        runtime = lease.present
        if runtime is not None and not runtime.closed:
            runtime.hurry()
        await lease.connectivity.left(last_observed_state)

    async def channel_ready(self) -> None:
        while (state := self.get_state(try_to_connect=True)) is not STATES[READY]:
            await self.wait_for_state_change(state)

    async def close(self, grace: float | None = None) -> None:
        """Reject new calls, give calls in flight ``grace`` seconds to end, and cancel the rest.

        Raises:
            ValueError: ``grace`` is negative.
        """
        lease = self._lease
        runtime = lease.present
        if lease.closed and (self._closing or runtime is None or runtime.shut_down):
            return
        if grace is not None and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        try:
            self._closing = lease.closed = True
            listener = lease.settings.config.listener
            self._multicallables.report(listener.target.text, listener.method_keys)
            runtime = lease.present
            if runtime is None:
                lease.connectivity.changed(SHUTDOWN)
            elif runtime.loop is not CLOCK.loop():
                runtime.abandon()
            else:
                await self._end(runtime, grace)
        except BaseException:  # cancelled, or raised by a signal handler
            if runtime is not None:
                runtime.abandon()
            raise
        finally:
            self._closing = False

    async def _end(self, runtime: Runtime, grace: float | None) -> None:
        intercepted = [call for call in self._lease.intercepted.copy() if not call.done()]
        under_way = [*runtime.calls, *intercepted]
        try:
            if grace and under_way:
                waits = [asyncio.ensure_future(call.code()) for call in under_way]
                await asyncio.wait(waits, timeout=grace)
                for wait in waits:
                    wait.cancel()
        finally:
            for call in intercepted:
                call.cancel()
            runtime.shutdown()
            self._lease.release()
        await asyncio.sleep(0)  # cancelled calls end in the next turn of the loop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<meshlib.aio.Channel {self.mesh!r}: {figure()}>"


def _raise_in_loop(error: Exception) -> None:
    """Raise ``error`` in a separate callback of the event loop, so that it does not interrupt a step.

    Raises:
        Exception: ``error``, if no loop runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None
    loop.call_soon(_raise, error)


def _raise(error: Exception) -> None:
    raise error
