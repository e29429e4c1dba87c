"""A program whose process is out of file descriptors or threads for its first calls, or later; run by test_shortage.

usage: shortage_child.py sync|aio descriptors|threads|"later threads" KIND ADDRESS   prints a line of JSON
"""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

import meshlib
from meshlib import aio
from meshlib.testing import echo

SHELL, WHAT, KIND, ADDRESS = sys.argv[1:]
NOBODY = 65534


def descriptors() -> int:
    """Number of open descriptors of the process."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def short() -> Iterator[None]:
    """The process has no free thread or descriptor."""
    if WHAT.endswith("threads"):
        if os.getuid() == 0:
            os.setuid(NOBODY)  # the limit does not hold for root
        most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (1, most))
        yield
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held: list[int] = []
    try:
        while True:
            held.append(os.dup(2))
    except OSError:
        os.close(held.pop())  # the loop of the control thread would otherwise take one of its three
    yield
    for descriptor in held:
        os.close(descriptor)


def told(error: Any) -> list[object]:
    """The asserted parts of an error."""
    return [isinstance(error, grpc.RpcError), error.code().name, error.mesh.local, "failed to start" in error.details()]


def call(channel: Any) -> Any:
    """Make one call of the kind."""
    try:
        if KIND == "future":
            return channel.unary_unary(echo.UNARY).future(b"x", timeout=10).result().decode()
        if KIND == "upload":
            return channel.stream_unary(echo.CLIENT_STREAM)(iter([b"x", b"y"]), timeout=10).decode()
        if KIND == "stream":
            return b"".join(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10)).decode()
        return channel.unary_unary(echo.UNARY)(b"x", timeout=10).decode()
    except grpc.RpcError as error:
        return told(error)


async def acall(channel: Any) -> Any:
    """Make one call of the kind in asyncio."""
    try:
        if KIND == "stream":
            return "".join([m.decode() async for m in channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10)])
        return (await channel.unary_unary(echo.UNARY)(b"x", timeout=10)).decode()
    except grpc.RpcError as error:
        return told(error)


def blocking() -> dict[str, object]:
    """Three calls in the shortage, and one after."""
    with meshlib.channel(f"static:///{ADDRESS}") as channel:
        if WHAT == "later threads":
            channel.unary_unary(echo.UNARY)(b"x", timeout=10)
        before = descriptors()
        with short():
            without = [call(channel) for _ in range(3)]
        lost = descriptors() - before + sum(host.in_flight for host in channel.mesh.snapshot().hosts)
        return {"without": without, "lost": lost, "after": call(channel)}


async def looping() -> dict[str, object]:
    """The same in asyncio."""
    async with aio.channel(f"static:///{ADDRESS}") as channel:
        before = descriptors()
        with short():
            without = [await acall(channel) for _ in range(3)]
        lost = descriptors() - before
        return {"without": without, "lost": lost, "after": await acall(channel)}


print(json.dumps(blocking() if SHELL == "sync" else asyncio.run(looping())))  # noqa: T201 - the test reads it
