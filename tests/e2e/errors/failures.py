"""The failure of a call on a new channel, with the attempts of its error."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tests.e2e.load import Shell

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo

DEADLINE = 10.0


@dataclass(frozen=True)
class Failure:
    """The failure of a call."""

    error: Any
    seconds: float

    @property
    def code(self) -> str:
        return str(self.error.code().name)

    @property
    def details(self) -> str:
        return str(self.error.details())

    @property
    def text(self) -> str:
        return str(self.error)

    @property
    def mesh(self) -> Any:
        return self.error.mesh


def failure(
    shell: Shell, target: str, timeout: float = DEADLINE, wait_for_ready: bool | None = None, **options: Any
) -> Failure:
    """The failure of one unary call on a new channel."""
    arguments = {"timeout": timeout, "wait_for_ready": wait_for_ready}

    async def in_asyncio() -> None:
        async with aio.channel(target, **options) as channel:
            await channel.unary_unary(echo.UNARY)(b"x", **arguments)

    def in_threads() -> None:
        with meshlib.channel(target, **options) as channel:
            channel.unary_unary(echo.UNARY)(b"x", **arguments)

    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        in_threads() if shell == "sync" else asyncio.run(in_asyncio())
    return Failure(caught.value, time.monotonic() - began)


def static(*all_servers: Server) -> str:
    """The target that lists the servers."""
    return "static:///" + ",".join(server.address for server in all_servers)
