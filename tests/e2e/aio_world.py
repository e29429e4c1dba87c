"""Shared helpers of the asyncio tests: channels to real servers, and waits with a deadline."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.testing import ProcessServer, Server

PATIENCE = 10.0
"""Seconds after which a wait fails."""

QUICK = meshlib.RetryPolicy(initial_backoff=0.001, max_backoff=0.002)


def target(*servers: Server | ProcessServer) -> str:
    """The servers as one target."""
    return "static:///" + ",".join(server.address for server in servers)


@asynccontextmanager
async def channel_to(*servers: Server | ProcessServer, **arguments: Any) -> AsyncIterator[meshlib.aio.Channel]:
    """A channel to ``servers``, closed at the end."""
    arguments.setdefault("retry", QUICK)
    async with meshlib.aio.channel(target(*servers), **arguments) as channel:
        yield channel


async def all_ready(channel: meshlib.aio.Channel, hosts: int) -> None:
    """Wait until ``hosts`` of the channel are connected."""
    channel.get_state(try_to_connect=True)
    await aio_until(lambda: sum(host.state == "READY" for host in channel.mesh.snapshot().hosts) == hosts, "all ready")


def in_flight(channel: meshlib.aio.Channel) -> int:
    """Number of attempts in flight."""
    return sum(host.in_flight for host in channel.mesh.snapshot().hosts)
