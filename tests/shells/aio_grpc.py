"""grpc.aio in a world: the part of ``grpc.aio.Channel`` and of its call objects that the shell uses, for scripted
hosts.

As in grpc.aio, done-callbacks run when the status arrives, and waiting tasks resume in the next turn of the loop.
"""

import asyncio
from collections.abc import Callable, Generator
from typing import Any, final

import grpc
import grpc.aio
from tests.shells.loops import Loop
from tests.shells.network import CANCELLED, CLOSED, REFUSED, Flight, Network
from tests.shells.observing import trailing

from meshlib._adapt.reasons import PROBE

__all__ = ["Channel"]


@final
class _Refused:
    """A call on a failing connection, ended by C-core."""

    def __init__(self, request: bytes, timeout: float) -> None:
        pass

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    async def details(self) -> str:
        return REFUSED


@final
class Channel:
    """A channel to one scripted host: the part of ``grpc.aio.Channel`` that the shell uses."""

    def __init__(self, network: Network, loop: Loop, *arguments: Any) -> None:
        target = arguments[0]
        self.network = network
        self.loop = loop
        self.link = network.open(target.removeprefix("ipv4:"))
        self.calls: list[Call] = []
        self._channel = self  # where grpc.aio's own has the object with the connectivity
        self._open = True

    def check_connectivity_state(self, connect: bool) -> int:
        return self.link.state(connect)

    def unary_unary(
        self, method: str, serializer: Any = None, deserializer: Any = None, registered: bool = False
    ) -> Callable[..., Any]:
        if method == PROBE:
            return _Refused

        def call(request: Any, *, timeout: Any, metadata: Any, credentials: Any, compression: Any) -> Call:
            assert not self.loop.baton.seat.holds, "a lock is held while grpc.aio starts a call"
            if not self._open:
                raise grpc.aio.UsageError("Channel is closed.")
            previous = dict(metadata or ()).get("grpc-previous-rpc-attempts")
            made = Call(self, self.network.send(method, self.link, timeout, previous), deserializer)
            self.calls.append(made)
            return made

        return call

    unary_stream = stream_unary = stream_stream = unary_unary

    async def close(self, grace: float | None = None) -> None:
        if self._open:
            self._open = False
            self.network.closed(self.link)
            for call in self.calls:
                call.cancel(CLOSED)


@final
class Call:
    """One attempt in flight: the part of grpc.aio's call objects that the shell uses."""

    def __init__(self, channel: Channel, flight: Flight, deserializer: Any) -> None:
        self._network = channel.network
        self._loop = channel.loop
        self._flight = flight
        self._deserializer = deserializer
        self._callbacks: list[Callable[[Any], None]] = []
        self._news = self._loop.create_future()
        self._cancelled = False
        # Senders of a stream's requests, under grpc.aio's own names.
        self._metadata_sent = asyncio.Event()
        self._metadata_sent.set()
        self._cython_call = self
        self._async_request_poller: asyncio.Task[None] | None = None
        for at, _ in flight.messages:
            self._loop.call_at(at, self._tell_readers)
        self._arm()

    async def send_serialized_message(self, request: bytes) -> None:
        """Return when the server has accepted it, at its pace."""
        self._network.took(self._flight, len(request))
        await asyncio.sleep(self._flight.pace)

    async def send_receive_close(self) -> None:
        self._network.took(self._flight, None)

    def _stop_sending(self) -> None:
        if self._async_request_poller is not None:
            self._async_request_poller.cancel()

    def _arm(self) -> None:
        if self._flight.ends < float("inf"):
            self._loop.call_at(self._flight.ends, self._land)

    def cancel(self, details: str = CANCELLED) -> bool:
        assert not self._loop.baton.seat.holds, "a lock is held while grpc.aio cancels a call"
        if not self._network.cancel(self._flight, details):
            return False
        self._cancelled = True
        self._stop_sending()
        self._arm()
        return True

    def done(self) -> bool:
        return self._flight.over or self._cancelled

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._flight.over:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def code(self) -> grpc.StatusCode:
        await self._ended()
        return grpc.StatusCode[self._flight.code]

    async def details(self) -> str:
        await self._ended()
        return "" if self._flight.code == "OK" else self._flight.details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        await self._ended()
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._ended()
        return grpc.aio.Metadata(*trailing(self._flight))

    async def debug_error_string(self) -> str:
        await self._ended()
        return ""

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._ended().__await__()
        self._raise_for_status()
        return self._deserializer(self._flight.message.encode())

    async def read(self) -> Any:
        flight = self._flight
        while True:
            if flight.messages and flight.messages[0][0] <= self._loop.time():
                return self._deserializer(flight.messages.pop(0)[1].encode())
            if flight.over:
                flight.asked_after_end()
                self._raise_for_status()
                return grpc.aio.EOF
            await asyncio.shield(self._news)

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def _ended(self) -> None:
        while not self._flight.over:
            await asyncio.shield(self._news)

    def _raise_for_status(self) -> None:
        flight = self._flight
        if self._cancelled:
            raise asyncio.CancelledError
        if flight.code != "OK":
            metadata = grpc.aio.Metadata(), grpc.aio.Metadata(*trailing(flight))
            raise grpc.aio.AioRpcError(grpc.StatusCode[flight.code], *metadata, details=flight.details)

    def _tell_readers(self) -> None:
        news, self._news = self._news, self._loop.create_future()
        news.set_result(None)

    def _land(self) -> None:
        flight = self._flight
        if flight.over or flight.ends > self._loop.time():
            return
        self._network.landed(flight)
        self._stop_sending()
        self._tell_readers()  # readers resume in the next turn of the loop, callbacks run now
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
