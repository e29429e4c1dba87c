"""Calls, cancels, snapshots and closes in the middle of other calls, at any point of the sync shell."""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

import grpc
import pytest
from tests.e2e.reentrancy.sync_uses import PATIENCE, WHERE, Calls, at_each_place, ended, no_hang
from tests.interruption import count, interrupt, points
from tests.waiting import until

import meshlib
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib.testing import echo

OUTER: Final = ("call", "future", "stream", "abandoned", "cancelled")
NESTED: Final = ("call", "future", "stream", "cancel", "done", "snapshot", "abandoned", "another", "close")


def outer(calls: Calls, name: str) -> Callable[[], None]:
    """A step of the application; ignores its failure by a closed channel."""
    if name == "cancelled":
        calls.hold()

    def run() -> None:
        with suppress(ValueError, grpc.RpcError, grpc.FutureCancelledError):
            (calls.cancel if name == "cancelled" else getattr(calls, name))()

    return run


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
@pytest.mark.parametrize("name", OUTER)
def test_anything_in_the_middle_of_a_call(name: str, target: str, rng: Random) -> None:
    """A call, future, stream, cancel, snapshot or close at any point of a call ends, and so does the outer call."""
    with Calls(target) as calls, no_hang("counting"):
        total = count(outer(calls, name), WHERE)
    assert total > 20
    calls = Calls(target)
    calls.call()
    try:
        for place, at in enumerate(points(total, rng)):
            step = NESTED[place % len(NESTED)]
            with no_hang(f"{step} in the middle of {name}, at place {at} of {total}"):
                interrupt(outer(calls, name), at, getattr(calls, step), WHERE)
                calls.held = None
                calls.settle()
            if step == "close":
                calls.close()
                calls = Calls(target)
                calls.call()
            else:
                with no_hang(f"a call after {step} in the middle of {name}, at place {at} of {total}"):
                    calls.call()
    finally:
        calls.close()


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
def test_anything_in_the_middle_of_a_first_call(target: str, rng: Random) -> None:
    """Channel, control thread and connections are made meanwhile; a nested call may make them as well."""

    def first(calls: Calls) -> Callable[[], None]:
        return outer(calls, "call")

    calls = Calls(target)
    with no_hang("counting"):
        total = count(first(calls), WHERE)
        calls.close()
    for place, at in enumerate(points(total, rng, 35)):
        step = ("call", "another", "snapshot", "close")[place % 4]
        with no_hang(f"{step} in the middle of a first call, at place {at} of {total}"):
            calls = Calls(target)
            interrupt(first(calls), at, outer(calls, step), WHERE)
            calls.settle()
            calls.close()


def on_loop(loop: Any, step: Callable[[], object]) -> None:
    """Return once ``step`` has run on the control thread."""
    done = threading.Event()
    loop.call_soon_threadsafe(lambda: (step(), done.set()))
    assert done.wait(PATIENCE)


class Held:
    """A balancer that makes no picker until released; then queued calls get a host."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.may = threading.Event()

    def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
        self.entered.set()
        self.may.wait()
        return RoundRobin().picker(hosts, rng=rng)


def is_closed(subchannel: Any) -> bool:
    """Whether grpc's channel is closed."""
    try:
        subchannel.state(False)
    except ValueError:
        return True
    return False


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
def test_a_picker_that_is_made_while_the_channel_closes(target: str, rng: Random) -> None:
    """At any point of the close, the queued call ends and every connection is closed."""

    def close(at: int) -> int:
        balancer, hold, held = Held(), threading.Event(), threading.Event()
        channel = meshlib.channel(target, balancer=balancer)
        ends: list[str] = []

        def call() -> None:
            try:
                channel.unary_unary(echo.UNARY)(b"x", wait_for_ready=True)
            except grpc.RpcError as error:
                ends.append(error.details())  # type: ignore[attr-defined]

        caller = threading.Thread(target=call, daemon=True)
        runtime: Any = channel._plain.lease.runtime()  # type: ignore[attr-defined]
        caller.start()
        assert balancer.entered.wait(PATIENCE)
        until(lambda: runtime.cluster.waiting, "the call waits")
        subchannels = [host.subchannel for host in runtime.cluster.hosts]

        def picker() -> None:
            balancer.may.set()
            ended("meshlib-picker")

        # Keeps the control thread busy, so that it does not run in between.
        runtime.loop.call_soon_threadsafe(lambda: (held.set(), hold.wait()))
        assert held.wait(PATIENCE)
        try:
            total = interrupt(channel.close, at, picker)
        finally:
            hold.set()
            balancer.may.set()
        ended("meshlib-picker")
        for _ in range(3):
            on_loop(runtime.loop, lambda: None)
        ended("meshlib-close")
        caller.join(PATIENCE)
        assert (ends, [is_closed(subchannel) for subchannel in subchannels]) == (["Channel closed!"], [True, True])
        return total

    with Calls(target):  # keeps the control thread
        at_each_place(close, rng)
