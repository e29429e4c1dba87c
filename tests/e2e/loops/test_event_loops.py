"""The asyncio channel under eager task factories, on loops that end, in tasks cancelled at a bad moment; and its lists
of interceptors."""

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, QUICK, all_ready, channel_to, in_flight
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.testing import Server, echo, servers

METHODS = {
    "unary_unary": echo.UNARY,
    "unary_stream": echo.SERVER_STREAM,
    "stream_unary": echo.CLIENT_STREAM,
    "stream_stream": echo.BIDI_STREAM,
}
EXPECTED = {"unary_unary": b"x", "unary_stream": [b"x"] * 3, "stream_unary": b"xy", "stream_stream": [b"x", b"y"]}


async def requests(*messages: bytes) -> AsyncIterator[bytes]:
    """A request iterator."""
    for message in messages:
        yield message


async def answer(channel: Any, kind: str) -> Any:
    """The result of a call of ``kind``."""
    stub = getattr(channel, kind)(METHODS[kind])
    call = stub(requests(b"x", b"y") if kind.startswith("stream") else b"x", timeout=PATIENCE)
    return [message async for message in call] if kind.endswith("stream") else await call


def _plain_factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **arguments: Any) -> "asyncio.Task[Any]":
    return asyncio.Task(coroutine, loop=loop, **arguments)


FACTORIES: dict[str, Any] = {"plain": _plain_factory}
if sys.version_info >= (3, 12):
    FACTORIES["eager"] = asyncio.eager_task_factory


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("kind", METHODS)
async def test_a_task_factory_may_start_tasks_at_once(kind: str, factory: str) -> None:
    """Every kind of call is answered under a custom task factory, an eager one where Python has it."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(FACTORIES[factory])
    try:
        with servers(2) as (a, b):
            async with asyncio.timeout(PATIENCE), channel_to(a, b) as channel:
                assert await answer(channel, kind) == EXPECTED[kind]
                await all_ready(channel, 2)
                a.fault(code="UNAVAILABLE", times=1)
                b.fault(code="UNAVAILABLE", times=1)
                assert await answer(channel, kind) == EXPECTED[kind]
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("factory", FACTORIES)
async def test_requests_under_a_task_factory_are_sent_as_they_come(factory: str) -> None:
    """The first request reaches the server before the iterator has the second, even with eager tasks."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(FACTORIES[factory])
    answered = asyncio.Event()

    async def one_at_a_time() -> AsyncIterator[bytes]:
        yield b"x"
        await answered.wait()
        yield b"y"

    try:
        with Server() as server:
            async with asyncio.timeout(PATIENCE), channel_to(server) as channel:
                call = channel.stream_stream(echo.BIDI_STREAM)(one_at_a_time(), timeout=PATIENCE)
                assert await call.read() == b"x"
                answered.set()
                assert await call.read() == b"y"
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
@pytest.mark.parametrize("iterated", [True, False])
async def test_a_cancellation_is_not_lost_while_an_attempt_fails(kind: str, iterated: bool, rng: Random) -> None:
    """A task cancelled at any moment of a stream's first attempts ends, and its call with it."""
    with servers(2) as (a, b):
        async with channel_to(a, b, outlier_detection=None, retry_budget=None) as channel:
            await all_ready(channel, 2)
            stub = getattr(channel, kind)(METHODS[kind])
            for _ in range(150):
                a.heal()
                b.heal()
                a.fault(code="UNAVAILABLE", times=1)
                b.fault(code="UNAVAILABLE", times=1)
                calls: list[Any] = []
                task = asyncio.create_task(_read(stub, kind, iterated, calls))
                await asyncio.sleep(rng.uniform(0.0, 0.008))
                task.cancel()
                done, _ = await asyncio.wait([task], timeout=PATIENCE / 2)
                for call in calls:
                    call.cancel()
                assert done, "the task has lost its cancellation"
                assert task.cancelled() or task.exception() is not None
            await aio_until(lambda: in_flight(channel) == 0, "no attempt is left")


async def _read(stub: Any, kind: str, iterated: bool, calls: list[Any]) -> None:
    """Read a stream forever; the requests do not end."""
    endless = asyncio.Event()

    async def one_request() -> AsyncIterator[bytes]:
        yield b"x"
        await endless.wait()

    call = stub(one_request() if kind == "stream_stream" else b"x", timeout=PATIENCE)
    calls.append(call)
    if iterated:
        async for _ in call:
            pass
    else:
        while await call.read() is not grpc.aio.EOF:
            pass
    await endless.wait()


async def test_a_task_that_was_cancelled_before_may_call() -> None:
    """A task that caught its cancellation can make a stream with retries, and is not cancelled again."""
    with servers(2) as (a, b):
        async with channel_to(a, b) as channel:
            await all_ready(channel, 2)
            for server in (a, b):
                server.fault(code="UNAVAILABLE", times=1)

            async def clean_up() -> Any:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return await answer(channel, "stream_stream")

            task = asyncio.create_task(clean_up())
            await asyncio.sleep(0)
            task.cancel()
            assert await task == [b"x", b"y"]


LOOPS = """
import asyncio, gc, sys, weakref
import meshlib.aio
from meshlib.testing import Server, echo

loops = []


async def call(channel):
    loops.append(weakref.ref(asyncio.get_running_loop()))
    assert await channel.unary_unary(echo.UNARY)(b"x", timeout=10) == b"x"


async def once(target):
    async with meshlib.aio.channel(target) as channel:
        await call(channel)


with Server() as server:
    target = f"static:///{server.address}"
    if sys.argv[1] == "own":
        for _ in range(5):
            asyncio.run(once(target))
    else:
        channel = meshlib.aio.channel(target)
        for _ in range(5):
            asyncio.run(call(channel))
        del channel
    gc.collect()
    print(sum(loop() is not None for loop in loops))
"""


@pytest.mark.parametrize("channels", ["own", "shared"])
def test_an_event_loop_that_ended_is_not_kept(channels: str) -> None:
    """An ended loop is not kept, whether each loop has its own channel or all share one; grpc.aio itself keeps the last
    loop."""
    run = subprocess.run(
        [sys.executable, "-c", LOOPS, channels],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) <= 1, f"{run.stdout.strip()} of 5 loops are kept"


class _Marking(
    grpc.aio.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.aio.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    def __init__(self) -> None:
        self.ran = 0

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.ran += 1
        return await continuation(client_call_details, request)

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        self.ran += 1
        return await continuation(client_call_details, request_iterator)


@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
@pytest.mark.parametrize("factory", ["channel", "insecure_channel"])
async def test_the_lists_of_interceptors_are_live(kind: str, factory: str) -> None:
    """Interceptors that libraries append to grpc.aio's private lists run; so do those of a replaced list."""
    with Server() as server:
        target = f"static:///{server.address}" if factory == "channel" else server.address
        async with getattr(meshlib.aio, factory)(target) as channel:
            assert await answer(channel, kind) == EXPECTED[kind]
            name = f"_{kind}_interceptors"
            first, second = _Marking(), _Marking()
            getattr(channel, name).append(first)
            assert await answer(channel, kind) == EXPECTED[kind]
            assert first.ran == 1
            setattr(channel, name, [second])
            assert await answer(channel, kind) == EXPECTED[kind]
            assert (first.ran, second.ran) == (1, 1)
            setattr(channel, name, [])
            assert await answer(channel, kind) == EXPECTED[kind]
            assert (first.ran, second.ran) == (1, 1)


async def test_every_list_of_interceptors_is_there() -> None:
    """grpc.aio's four attributes hold the channel's interceptors, by kind."""
    marking = _Marking()
    async with meshlib.aio.channel("static:///127.0.0.1:1", interceptors=[marking], retry=QUICK) as channel:
        lists = {kind: getattr(channel, f"_{kind}_interceptors") for kind in METHODS}
        assert lists == {"unary_unary": [marking], "unary_stream": [], "stream_unary": [], "stream_stream": [marking]}


def test_a_channel_that_is_dropped_is_freed_at_once() -> None:
    """An unclosed channel is freed without the cyclic collector."""
    gc.collect()
    gc.disable()
    try:
        channel = meshlib.aio.channel("static:///127.0.0.1:1")
        channel.unary_unary(echo.UNARY)
        channel.stream_stream(echo.BIDI_STREAM)
        freed = weakref.ref(channel._lease)
        del channel
        assert freed() is None
    finally:
        gc.enable()
