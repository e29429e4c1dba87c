"""Scenarios of the asyncio shell, and their interruptions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import grpc
from tests.e2e.aio_world import QUICK, in_flight, target

import meshlib
import meshlib.aio
from meshlib.testing import Server, echo

LIMIT: Final = 15.0
"""Seconds for a scenario, which takes milliseconds except on a busy machine; also the deadline of its calls."""
METHODS: Final = {
    "unary_unary": echo.UNARY,
    "unary_stream": echo.SERVER_STREAM,
    "stream_unary": echo.CLIENT_STREAM,
    "stream_stream": echo.BIDI_STREAM,
}


async def requests() -> AsyncIterator[bytes]:
    """A request iterator."""
    yield b"1"
    yield b"2"


class World:
    """State shared by a scenario and its interruptions.

    Args:
        channel: the one in use.
        hosts: of the channel.
    """

    def __init__(self, channel: meshlib.aio.Channel, hosts: tuple[Server, ...]) -> None:
        self.channel = channel
        self.hosts = hosts
        self.current: Any = None
        """The call of the scenario."""
        self.made: list[Any] = []
        """Calls made by interruptions."""
        self.cancelled = False

    def stub(self, kind: str) -> Any:
        return getattr(self.channel, kind)(METHODS[kind])

    # Interruptions.

    def unary(self) -> None:
        self.made.append(self.stub("unary_unary")(b"nested", timeout=LIMIT))

    def stream(self) -> None:
        self.made.append(self.stub("stream_stream")(requests(), timeout=LIMIT))

    def dropped(self) -> None:
        """Make a stream that is collected at once."""
        self.stub("unary_stream")(b"dropped", timeout=LIMIT)

    def cancel(self) -> None:
        if self.current is not None:
            self.cancelled = self.current.cancel() or self.cancelled

    def others_cancelled(self) -> None:
        for kind in ("unary_unary", "unary_stream"):
            self.stub(kind)(b"nested", timeout=LIMIT).cancel()

    def look(self) -> None:
        self.channel.mesh.snapshot()
        repr(self.channel)

    def collect(self) -> None:
        """Finalize the scenario's call, as if it had been collected."""
        finalizer = getattr(self.current, "__del__", None)
        if finalizer is not None:
            self.cancelled = True
            finalizer()

    def close(self) -> None:
        """Close another channel, an unused one."""
        with suppress(StopIteration):
            meshlib.aio.channel(target(*self.hosts)).close().send(None)

    async def ended(self, *, closed: bool = False) -> None:
        """The calls of the interruptions are answered, unless the channel was ``closed``."""
        made, self.made = self.made, []
        for call in made:
            try:
                if isinstance(call, grpc.aio.UnaryUnaryCall):
                    assert await call == b"nested"
                else:
                    assert [message async for message in call] == [b"1", b"2"]
            except (asyncio.CancelledError, grpc.RpcError):
                if not closed:
                    raise


# Scenarios.


async def unary(world: World) -> object:
    """A call with one answer."""
    world.current = world.stub("unary_unary")(b"x", timeout=LIMIT)
    return await world.current


async def retried(world: World) -> object:
    """A call that fails once and is retried."""
    for server in world.hosts:
        server.heal()
        server.fault(code="UNAVAILABLE", times=1)
    return await unary(world)


async def read(world: World) -> object:
    """A stream of answers, iterated."""
    world.current = world.stub("unary_stream")(b"x", timeout=LIMIT)
    return [message async for message in world.current]


async def chat(world: World) -> object:
    """Two streams, read."""
    world.current = world.stub("stream_stream")(requests(), timeout=LIMIT)
    messages = []
    while (message := await world.current.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def write(world: World) -> object:
    """A stream of requests, written."""
    world.current = call = world.stub("stream_unary")(timeout=LIMIT)
    await call.write(b"1")
    await call.write(b"2")
    await call.done_writing()
    return await call


async def cancelled(world: World) -> object:
    """A stream that is cancelled."""
    world.current = call = world.stub("stream_stream")(timeout=LIMIT)
    await call.write(b"1")
    world.cancelled = True
    call.cancel()
    return await call.read()


async def first(world: World) -> object:
    """The first call of a channel, and its end."""
    used = world.channel
    try:
        async with meshlib.aio.channel(target(*world.hosts), retry=QUICK) as world.channel:
            answer = await unary(world)
            await world.ended()
        await world.ended(closed=True)
        return answer
    finally:
        world.channel = used


SCENARIOS: Final[dict[str, tuple[Callable[[World], Awaitable[object]], object]]] = {
    "unary": (unary, b"x"),
    "retried": (retried, b"x"),
    "read": (read, [b"x"] * 3),
    "chat": (chat, [b"1", b"2"]),
    "write": (write, b"12"),
    "cancelled": (cancelled, None),
    "first": (first, b"x"),
}


def under_way(channel: meshlib.aio.Channel) -> bool:
    """Whether an attempt is in flight or a call waits."""
    snapshot = channel.mesh.snapshot()
    assert all(host.in_flight >= 0 for host in snapshot.hosts), snapshot
    return bool(in_flight(channel) or snapshot.waiting or snapshot.retries_held)
