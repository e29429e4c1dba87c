"""A channel with one interface in both shells, for tests that make the same calls in both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, target
from tests.e2e.load import Shell
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.testing import Server, echo

QUICK = {"initial_backoff": 0.001, "max_backoff": 0.002}


@dataclass(frozen=True)
class Caller:
    """One channel with the same interface in both shells: a blocking call has its own thread."""

    channel: Any
    shell: Shell

    async def unary(self, **options: Any) -> Any:
        """Make one call; returns the response and ``.mesh``."""
        stub = self.channel.unary_unary(echo.UNARY)
        options.setdefault("timeout", PATIENCE)
        if self.shell == "sync":
            response, call = await asyncio.to_thread(stub.with_call, b"x", **options)
        else:
            call = stub(b"x", **options)
            response = await call
        return response, call.mesh

    async def failure(self, **options: Any) -> Any:
        """The error of one failing call."""
        with pytest.raises(grpc.RpcError) as caught:
            await self.unary(**options)
        return caught.value

    async def ready(self, hosts: int) -> None:
        """Wait until ``hosts`` of them are connected."""
        if self.shell == "sync":
            self.channel.subscribe(lambda _: None, try_to_connect=True)
        else:
            self.channel.get_state(try_to_connect=True)
        await aio_until(lambda: sum(host.state == "READY" for host in self.hosts) == hosts, "all ready")

    @property
    def hosts(self) -> Any:
        return self.channel.mesh.snapshot().hosts


@asynccontextmanager
async def caller(shell: Shell, *some: Server, name: str | None = None, **options: Any) -> AsyncIterator[Caller]:
    """A channel to ``some``, or to a resolver's endpoints for ``name``, closed at the end."""
    where = target(*some) if name is None else name
    options.setdefault("retry", meshlib.RetryPolicy(**QUICK))
    if shell == "aio":
        async with meshlib.aio.channel(where, **options) as channel:
            yield Caller(channel, shell)
        return
    made = meshlib.channel(where, **options)
    try:
        yield Caller(made, shell)
    finally:
        await asyncio.to_thread(made.close)


async def read_all(it: Caller, stream: Any) -> tuple[list[bytes], Any]:
    """Every message of a stream, and its error."""
    got: list[bytes] = []
    read = reader(it, stream)
    try:
        while True:
            got.append(await read())
    except StopAsyncIteration:
        return got, None
    except grpc.RpcError as error:
        return got, error


def reader(it: Caller, stream: Any) -> Callable[[], Awaitable[bytes]]:
    """A function for the next message of a stream."""
    if it.shell == "aio":
        iterator = aiter(stream)
        return lambda: anext(iterator)

    def blocking() -> Any:
        try:
            return next(stream)
        except StopIteration:
            return None

    async def read() -> bytes:
        message: bytes | None = await asyncio.to_thread(blocking)
        if message is None:
            raise StopAsyncIteration
        return message

    return read
