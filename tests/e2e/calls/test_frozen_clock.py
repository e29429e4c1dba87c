"""Calls end normally under freezegun, which replaces the functions of the module ``time``."""

import os
import subprocess
import sys

import pytest

from meshlib.testing import Server

PROGRAM = """
import asyncio, sys
from freezegun import freeze_time

shell, order, address = sys.argv[1:]
if order == "imported":
    frozen = freeze_time("2035-01-01")
    frozen.start()
import grpc
import meshlib, meshlib.aio
from meshlib.testing import echo

if order == "used":
    frozen = freeze_time("2035-01-01")


def code(error):
    return error.code().name


def sync(good, dead):
    def calls(channel):
        seen = [channel.unary_unary(echo.UNARY)(b"x", timeout=5)]
        seen.append(channel.unary_unary(echo.UNARY).future(b"x", timeout=5).result())
        seen += list(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=5))
        return seen

    def refused(channel, **arguments):
        try:
            channel.unary_unary(echo.UNARY)(b"x", timeout=0.5, **arguments)
        except grpc.RpcError as error:
            return code(error)

    with meshlib.channel(good) as channel, meshlib.channel(dead) as other:
        if order == "used":
            calls(channel)
            frozen.start()
        print(calls(channel), refused(other), refused(other, wait_for_ready=True))
        frozen.stop()
        print(calls(channel), refused(other), refused(other, wait_for_ready=True))


async def aio(good, dead):
    async def calls(channel):
        seen = [await channel.unary_unary(echo.UNARY)(b"x", timeout=5)]
        seen.append(await channel.stream_unary(echo.CLIENT_STREAM)(iter([b"x"]), timeout=5))
        return seen + [message async for message in channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=5)]

    async def refused(channel, **arguments):
        try:
            await channel.unary_unary(echo.UNARY)(b"x", timeout=0.5, **arguments)
        except grpc.RpcError as error:
            return code(error)

    async with meshlib.aio.channel(good) as channel, meshlib.aio.channel(dead) as other:
        if order == "used":
            await calls(channel)
            frozen.start()
        print(await calls(channel), await refused(other), await refused(other, wait_for_ready=True))
        frozen.stop()
        print(await calls(channel), await refused(other), await refused(other, wait_for_ready=True))


where = f"static:///{address}", "static:///127.0.0.1:1"
sync(*where) if shell == "sync" else asyncio.run(aio(*where))
"""

EXPECTED = f"{[b'x'] * 5} UNAVAILABLE DEADLINE_EXCEEDED\n" * 2


@pytest.mark.parametrize("order", ["used", "imported"])
@pytest.mark.parametrize("shell", ["sync", "aio"])
def test_calls_end_while_the_clock_stands_still(shell: str, order: str) -> None:
    """Answers, failures after retries and deadlines come, whether meshlib was used before the freeze or imported after
    it, and again when the clock runs on."""
    with Server() as server:
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, shell, order, server.address],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (run.returncode, run.stdout) == (0, EXPECTED), run.stderr
