"""A new channel dials at once, whatever an older channel to the same address waits for."""

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.waiting import exit_status, until

import meshlib
from meshlib import aio
from meshlib.testing import ProcessServer, Server, echo

DEADLINE = 10.0
PATIENT = [("grpc.initial_reconnect_backoff_ms", 60_000), ("grpc.max_reconnect_backoff_ms", 60_000)]
"""After one failure there is no dial for a minute. C-core shares the connection only with equal options."""


def failing(channel: Any) -> bool:
    """Whether its only host backs off."""
    return [host.state for host in channel.mesh.snapshot().hosts] == ["TRANSIENT_FAILURE"]


def sync_channel(server: ProcessServer) -> meshlib.Channel:
    """A channel that fails at once and dials rarely."""
    return meshlib.channel(f"static:///{server.address}", retry=None, options=PATIENT)


def call(channel: grpc.Channel) -> bytes:
    """One call."""
    answer: bytes = channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
    return answer


def connections(server: Server) -> int:
    """Established TCP connections to ``server``, as the kernel counts them."""
    lines = [line for table in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{table}").read_text().splitlines()]
    return sum(line.split()[2].endswith(f":{server.port:04X}") and line.split()[3] == "01" for line in lines)


def test_channels_to_one_address_share_a_connection() -> None:
    """Channels share a connection while it works, as grpc's do."""
    with Server() as server, ExitStack() as channels:
        for _ in range(5):
            channel = channels.enter_context(meshlib.channel(f"static:///{server.address}"))
            assert call(channel) == b"x"
        assert connections(server) == 1


def test_a_new_channel_does_not_wait_for_the_back_off_of_an_older_one() -> None:
    """A new channel finds the server when it is back, as grpc's own new channel would."""
    with ProcessServer() as server, sync_channel(server) as old:
        call(old)
        server.kill()
        until(lambda: failing(old))
        server.start()
        for _ in range(3):
            with sync_channel(server) as new:
                assert call(new) == b"x"
        assert failing(old)


async def test_a_new_channel_does_not_wait_for_the_back_off_of_an_older_one_in_asyncio() -> None:
    """The same in asyncio."""

    def channel() -> aio.Channel:
        return aio.channel(f"static:///{server.address}", retry=None, options=PATIENT)

    with ProcessServer() as server:
        async with channel() as old:
            assert await old.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE) == b"x"
            server.kill()
            await asyncio.to_thread(until, lambda: failing(old))
            await asyncio.to_thread(server.start)
            for _ in range(3):
                async with channel() as new:
                    assert await new.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE) == b"x"
            assert failing(old)


def test_a_new_event_loop_does_not_wait_for_the_back_off_of_the_last() -> None:
    """A new loop's channel dials at once, although objects of an ended loop may still exist, and dial forever."""

    async def first() -> aio.Channel:
        channel = aio.channel(f"static:///{server.address}", retry=None, options=PATIENT)
        assert await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE) == b"x"
        server.kill()
        await asyncio.to_thread(until, lambda: failing(channel))
        return channel

    async def second() -> None:
        async with aio.channel(f"static:///{server.address}", retry=None, options=PATIENT) as channel:
            assert await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE) == b"x"

    with ProcessServer() as server:
        old = asyncio.run(first())
        server.start()
        asyncio.run(second())
        del old


@pytest.mark.parametrize("state", ["connected", "failing"])
def test_a_forked_child_does_not_wait_for_what_its_parent_had(state: str) -> None:
    """A forked child dials anew: copied connections are dead, and do not show the server's state."""
    with ProcessServer() as server, sync_channel(server) as channel:
        call(channel)
        if state == "failing":
            server.kill()
            until(lambda: failing(channel))
            server.start()
        pid = os.fork()
        if pid == 0:
            status = 3
            try:
                status = 0 if call(channel) == b"x" else 4
            finally:
                os._exit(status)
        assert exit_status(pid, 2 * DEADLINE) == 0
