"""Exceptions of signal handlers at any point of the sync shell."""

import gc
import sys
from random import Random
from typing import Any

import grpc
import pytest
from tests.e2e.reentrancy.sync_uses import WHERE, Calls, SoftTimeLimitError, at_each_place, ended, no_hang
from tests.interruption import count, interrupt, points

import meshlib
from meshlib.testing import echo


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in __del__, it goes no further
@pytest.mark.parametrize("name", ["call", "future", "stream", "abandoned"])
def test_an_exception_in_the_middle_of_a_call(name: str, target: str, rng: Random) -> None:
    """An exception at any point, like celery's soft time limit, reaches the application, nothing stays counted, and the
    channel works."""
    raised = 0

    def expire() -> None:
        raise SoftTimeLimitError

    def run(calls: Calls) -> None:
        nonlocal raised
        try:
            getattr(calls, name)()
        except SoftTimeLimitError:
            raised += 1
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass

    with Calls(target) as calls:
        with no_hang("counting"):
            run(calls)  # the first one connects, and looks up the policies of the method
            total = count(lambda: run(calls), WHERE)
        tried = points(total, rng, 7 if name == "call" else 14)
        for at in tried:
            with no_hang(f"{name} with an exception at place {at} of {total}"):
                interrupt(lambda: run(calls), at, expire, WHERE)
                calls.settle()
                calls.call()
                calls.future()
        assert raised >= 0.8 * len(tried)


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of a loop that is not referenced yet: collecting it closes it
@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, RuntimeError])
def test_an_exception_in_the_middle_of_a_first_call(error: type[BaseException], target: str, rng: Random) -> None:
    """An exception anywhere in the start of a channel reaches the application as it is, the control thread and its loop
    end, and the next call is answered."""
    raised = error("out of a signal handler")

    def expire() -> None:
        raise raised

    def start(at: int) -> int:
        with no_hang("the start of a channel"), meshlib.channel(target) as channel:
            lease: Any = channel._plain.lease  # type: ignore[attr-defined]
            found: list[BaseException] = []

            def run() -> None:
                try:
                    lease.runtime()
                except BaseException as error:  # noqa: BLE001 - checked below
                    found.append(error)

            total = interrupt(run, at, expire, WHERE)
            assert found == [raised] * bool(at), found
            if lease.latest is None:  # else it was raised at the very end
                ended("meshlib-control")
            assert channel.unary_unary(echo.UNARY)(b"x", timeout=2.0) == b"x"
        ended("meshlib-control")
        return total

    ended("meshlib-control")
    at_each_place(start, rng)
    gc.collect()
