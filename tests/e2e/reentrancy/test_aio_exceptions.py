"""Exceptions of signal handlers in the middle of the asyncio shell."""

import asyncio
import dis
import gc
import logging
import os
import sys
import traceback
from contextlib import suppress
from functools import cache, partial
from random import Random
from types import CodeType, FrameType
from typing import Any, Final

import grpc
import pytest
from tests.e2e.aio_world import QUICK, all_ready, target
from tests.e2e.reentrancy.aio_scenarios import LIMIT, SCENARIOS, World, under_way
from tests.interruption import OURS, count, interrupt, points

import meshlib
import meshlib.aio
from meshlib.testing import echo, servers

DRIVER: Final = os.path.join("_control", "cluster_driver.py")


class SoftTimeLimitError(Exception):
    """Raised by a signal handler."""


SETTLED: Final = 10.0
"""Seconds within which everything ends after an exception; well before the deadline of a call."""


def _expire(error: type[BaseException], spared: str = DRIVER) -> None:
    """Raise, except inside the control plane, which is not part of a call."""
    frame: FrameType | None = sys._getframe()
    place = True
    while frame is not None:
        name = frame.f_code.co_filename
        if spared and name.endswith(spared):
            return
        if place and name.startswith(OURS):
            place = False
            if frame.f_lasti in _deaf(frame.f_code):
                return
            first = (frame.f_lineno or 0) - frame.f_code.co_firstlineno <= 2
            if first and frame.f_code.co_qualname.startswith(SENDS) and not issubclass(error, Exception):
                return
        frame = frame.f_back
    raise error


@cache
def _deaf(code: CodeType) -> frozenset[int]:
    """Offsets where nothing is raised, mostly those where only finalizers run: CPython checks for signals in the
    awaited code, and not while it handles an exception."""
    found: set[int] = set()
    before = False
    for instruction in dis.get_instructions(code):
        resumes = instruction.opname == "RESUME" and (instruction.arg or 0) & 3 >= 2
        if before or resumes:
            found.add(instruction.offset)
        before = resumes or instruction.opname in ("SEND", "CHECK_EXC_MATCH")
        if instruction.opname == "COPY" and code.co_qualname == STARTS:
            found.add(instruction.offset)
    return frozenset(found)


SENDS: Final = "Feed.__a"
"""Before their first lines only the task that sends the requests can end the call; it does after an ``Exception``."""
STARTS: Final = "AttemptRunner._start"
"""While grpc.aio returns its call, there is no other reference to it; it ends by its deadline, if it has one."""
CONTROL: Final = "Resolution."
"""Part of the names of the control plane's coroutines."""


def _others() -> list[asyncio.Task[Any]]:
    """All tasks except this one and those of the control plane."""
    here = asyncio.current_task()
    return [task for task in asyncio.all_tasks() if task is not here and CONTROL not in repr(task.get_coro())]


async def _settled(channel: meshlib.aio.Channel) -> None:
    """Nothing stays counted, no task is left, and the channel can be used."""
    try:
        async with asyncio.timeout(SETTLED):
            turns = 0
            while under_way(channel) or _others():
                turns += 1
                if turns == 100:
                    gc.collect()  # a traceback may hold objects that the application dropped
                await asyncio.sleep(0 if turns < 50 else 0.001)
    except TimeoutError:
        raise AssertionError(f"{channel.mesh.snapshot().hosts}; {_others()}") from None
    for server in range(2):
        assert await channel.unary_unary(echo.UNARY)(b"x", timeout=LIMIT) == b"x", server


async def abandoned(world: World) -> object:
    """A stream that is never read to its end."""
    async for message in world.stub("unary_stream")(b"x", timeout=LIMIT):
        return message
    return None


RAISING: Final = {name: SCENARIOS[name][0] for name in ("unary", "retried", "read", "chat", "write", "cancelled")} | {
    "abandoned": abandoned
}


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in __del__, it goes no further
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("error", [SoftTimeLimitError, KeyboardInterrupt])
@pytest.mark.parametrize("name", RAISING)
def test_an_exception_in_the_middle_of_a_scenario(name: str, error: type[BaseException], rng: Random) -> None:
    """After an exception from a signal handler at any point the call ends, nothing stays counted, and the channel
    works."""
    scenario = RAISING[name]
    with servers(2) as hosts, asyncio.Runner() as runner:
        channel = meshlib.aio.channel(target(*hosts), retry=QUICK, outlier_detection=None)
        runner.get_loop().set_exception_handler(lambda *_: None)
        failures = []
        try:
            runner.run(all_ready(channel, 2))
            places = count(lambda: _run_raising(runner, channel, hosts, scenario), CALL)
            for at in points(places, rng):
                where = _raised_at(runner, channel, hosts, scenario, at, error)
                with suppress(RuntimeError):  # the end of the last run may be among the callbacks that are left
                    runner.run(asyncio.sleep(0))
                for server in hosts:
                    server.heal()
                try:
                    runner.run(_settled(channel))
                except AssertionError as failure:
                    failures.append(f"place {at} of {places}: {where}: {failure}")
                    runner.run(channel.close())
                    channel = meshlib.aio.channel(target(*hosts), retry=QUICK, outlier_detection=None)
                    runner.run(all_ready(channel, 2))
                    if len(failures) == 5:
                        break
        finally:
            runner.run(channel.close())
        assert not failures, "\n".join([f"{len(failures)} failures", *failures])
    gc.collect()  # the coroutines that were never awaited, before another test collects them


CALL: Final = ("_core", "_aio")


def _run_raising(runner: asyncio.Runner, channel: meshlib.aio.Channel, hosts: Any, scenario: Any) -> None:
    async def run() -> None:
        world = World(channel, hosts)
        with suppress(grpc.RpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            await scenario(world)

    with suppress(SoftTimeLimitError, KeyboardInterrupt):
        runner.run(run())


def _raised_at(
    runner: asyncio.Runner, channel: meshlib.aio.Channel, hosts: Any, scenario: Any, at: int, error: type[BaseException]
) -> str:
    """Run ``scenario`` with an exception at point number ``at``; returns its location."""
    where = ""

    def expire() -> None:
        nonlocal where
        places = traceback.extract_stack()
        lines = [f"{os.path.basename(place.filename)}:{place.lineno}" for place in places if OURS in place.filename]
        where = " > ".join(lines)
        _expire(error)

    interrupt(lambda: _run_raising(runner, channel, hosts, scenario), at, expire, CALL)
    return where


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("error", [SoftTimeLimitError, KeyboardInterrupt])
def test_an_exception_in_the_middle_of_a_close(
    error: type[BaseException], rng: Random, caplog: pytest.LogCaptureFixture
) -> None:
    """After an exception at any point of ``close()`` no connection stays open, at the latest after another close."""
    caplog.set_level(logging.CRITICAL, "meshlib")  # a record would keep the frames of the interrupted code
    with servers(2) as hosts, asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)

        def begun() -> meshlib.aio.Channel:
            channel = meshlib.aio.channel(target(*hosts), retry=QUICK, outlier_detection=None)
            runner.run(all_ready(channel, 2))
            return channel

        def close(channel: meshlib.aio.Channel) -> None:
            with suppress(SoftTimeLimitError, KeyboardInterrupt):
                runner.run(channel.close())

        channel = begun()
        places = count(lambda: close(channel), CLOSE)
        for at in points(places, rng):
            channel = begun()
            runtime = channel._lease.present
            assert runtime is not None
            pool = [host.subchannel for host in runtime.cluster.hosts]
            assert len(pool) == 2
            interrupt(partial(close, channel), at, lambda: _expire(error, ""), CLOSE)
            with suppress(RuntimeError):  # the end of the last run may be among the callbacks that are left
                runner.run(asyncio.sleep(0))
            runner.run(channel.close())
            assert all(subchannel._channel is None for subchannel in pool), f"place {at} of {places}"
    gc.collect()  # the coroutines that were never awaited, before another test collects them


CLOSE: Final = ("_aio", "_core", "_control")
