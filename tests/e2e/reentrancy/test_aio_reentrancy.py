"""Calls, cancellations, snapshots, finalizers and closes in the middle of the asyncio shell."""

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any, Final

import grpc
import pytest
from tests.e2e.aio_world import QUICK, all_ready, target
from tests.e2e.reentrancy.aio_scenarios import LIMIT, SCENARIOS, World, requests, under_way
from tests.interruption import EVERY, interrupt
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.testing import servers

WHERE: Final = ("_core", "_aio", "_control")


NESTED: Final = ("unary", "stream", "dropped", "cancel", "others_cancelled", "look", "collect", "close")


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
        while world.made or under_way(world.channel) or len(asyncio.all_tasks()) > tasks:
            await world.ended()
            await asyncio.sleep(0)


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
            await aio_until(lambda: not under_way(channel), "no attempt is left, and no call waits")
