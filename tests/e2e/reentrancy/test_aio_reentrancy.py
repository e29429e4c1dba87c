"""Calls, cancellations, snapshots, finalizers and closes in the middle of the asyncio shell: at any point of its code,
and under a storm of signals and collections, over real servers.

``nox -s reentrancy`` tests every point, with every interruption.
"""

import asyncio
import dis
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from random import Random
from types import CodeType, FrameType
from typing import Any, Final

import grpc
import pytest
from tests.e2e.aio_world import QUICK, all_ready, in_flight, target, until
from tests.interruption import EVERY, OURS, count, interrupt, points

import meshlib
import meshlib.aio
from meshlib.testing import Server, echo, servers

WHERE: Final = ("_core", "_aio", "_control")
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


NESTED: Final = ("unary", "stream", "dropped", "cancel", "others_cancelled", "look", "collect", "close")


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


async def lived(world: World, scenario: Callable[[World], Awaitable[object]], expected: object) -> None:
    """Run ``scenario`` and all its interruptions to their ends."""
    world.current, world.cancelled = None, False
    tasks = len(asyncio.all_tasks())
    outcome: object
    async with asyncio.timeout(LIMIT):
        try:
            outcome = await scenario(world)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() or not world.cancelled:
                raise
            outcome = "cancelled"
        except asyncio.InvalidStateError:  # it wrote to a call that was cancelled
            if not world.cancelled:
                raise
            outcome = "cancelled"
        assert world.cancelled or outcome == expected, outcome
        while world.made or _under_way(world.channel) or len(asyncio.all_tasks()) > tasks:
            await world.ended()
            await asyncio.sleep(0)


def _under_way(channel: meshlib.aio.Channel) -> bool:
    snapshot = channel.mesh.snapshot()
    assert all(host.in_flight >= 0 for host in snapshot.hosts), snapshot
    return bool(in_flight(channel) or snapshot.waiting or snapshot.retries_held)


STRIDES: Final = {"first": 11 * EVERY}
"""Strides of scenarios with so many points that one in ``EVERY`` would take long."""


def steps(offset: int) -> Iterator[tuple[str, ...]]:
    """The interruptions at successive points: one each, or all at each."""
    if os.environ.get("MESHLIB_EVERY_POINT"):
        return itertools.repeat(NESTED)
    return itertools.cycle([(name,) for name in (*NESTED[offset % len(NESTED) :], *NESTED[: offset % len(NESTED)])])


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
@pytest.mark.parametrize("name", SCENARIOS)
def test_anything_in_the_middle_of_a_scenario(name: str, rng: Random) -> None:
    """A call, cancellation, snapshot, finalizer or close at any point of a scenario ends well, and so does the
    scenario."""
    scenario, expected = SCENARIOS[name]
    stride = 1 if os.environ.get("MESHLIB_EVERY_POINT") else STRIDES.get(name, EVERY)
    with servers(2) as hosts, asyncio.Runner() as runner:
        channel = meshlib.aio.channel(target(*hosts), retry=QUICK, outlier_detection=None)
        try:
            runner.run(all_ready(channel, 2))
            at, places = rng.randrange(stride) + 1, sys.maxsize
            for nested in steps(rng.randrange(len(NESTED))):
                for each in nested:
                    world = World(channel, hosts)
                    places = _interrupted(runner, world, scenario, expected, at, each, name)
                at += stride
                if at > places:
                    break
        finally:
            runner.run(channel.close())


def _interrupted(
    runner: asyncio.Runner, world: World, scenario: Any, expected: object, at: int, nested: str, name: str
) -> int:
    """Run one scenario with one interruption; returns its number of points."""

    def step() -> None:
        try:
            getattr(world, nested)()
        except grpc.aio.UsageError as error:
            if "closed" not in str(error):  # the end of a channel is a scenario, too
                raise

    try:
        return interrupt(lambda: runner.run(lived(world, scenario, expected)), at, step, WHERE)
    except Exception as error:
        calls = [world.current, *world.made]
        raise AssertionError(f"{nested} at place {at} of {name}: {error!r}; {calls}") from error


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
            while _under_way(channel) or _others():
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


class Cyclic:
    """Runs a function when the collector finds it."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.cycle = self

    def __del__(self) -> None:
        self.act()


STORM: Final = 3.0
"""Duration of the test of signals and finalizers, in seconds."""


async def test_a_storm_of_signals_and_collections(rng: Random) -> None:
    """Calls are answered while signal handlers and finalizers constantly make, cancel and abandon others."""
    with servers(2) as hosts:
        async with meshlib.aio.channel(target(*hosts), retry=QUICK, outlier_detection=None) as channel:
            await all_ready(channel, 2)
            world = World(channel, hosts)
            acts = [world.unary, world.stream, world.dropped, world.others_cancelled, world.look]
            came = {"signals": 0, "finalizers": 0}
            here = threading.get_ident()

            def act(what: str) -> None:
                if threading.get_ident() != here:  # the servers' threads collect, too
                    return
                came[what] += 1
                if len(world.made) < 64:
                    rng.choice(acts)()

            async def caller(kind: str) -> int:
                answered = 0
                while asyncio.get_running_loop().time() < end:
                    Cyclic(lambda: act("finalizers"))
                    stub = world.stub(kind)
                    if kind == "unary_unary":
                        assert await stub(b"x", timeout=2 * LIMIT) == b"x"
                    elif kind == "unary_stream":
                        async for message in stub(b"x", timeout=2 * LIMIT):
                            assert message == b"x"
                            break  # abandoned: it is cancelled when it is collected
                    else:
                        assert [message async for message in stub(requests(), timeout=2 * LIMIT)] == [b"1", b"2"]
                    answered += 1
                    await world.ended()
                return answered

            end = asyncio.get_running_loop().time() + STORM
            threshold = gc.get_threshold()
            before = signal.signal(signal.SIGPROF, lambda *_: act("signals"))
            try:
                gc.set_threshold(25, 2, 2)
                signal.setitimer(signal.ITIMER_PROF, 0.005, 0.005)
                async with asyncio.timeout(STORM + 3 * LIMIT):
                    kinds = ("unary_unary", "unary_stream", "stream_stream") * 4
                    answered = await asyncio.gather(*map(caller, kinds))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.signal(signal.SIGPROF, before)
                gc.set_threshold(*threshold)
            gc.collect()
            await world.ended()
            assert min(answered) > 0
            assert min(came.values()) > 0
            await until(lambda: not _under_way(channel), "no attempt is left, and no call waits")
