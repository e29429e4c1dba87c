"""Signal handlers and finalizers that use a channel in the middle of its calls, or raise there."""

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest
from tests.e2e.reentrancy.sync_uses import PATIENCE, Calls, SoftTimeLimitError, no_hang

from meshlib.testing import ProcessServer

SECONDS: Final = 1.5


@contextmanager
def signals(handler: Callable[[], None], interval: float = 0.002) -> Iterator[None]:
    """Run ``handler`` on the main thread again and again, wherever that is; not within itself."""
    inside = False

    def handle(_: int, __: object) -> None:
        nonlocal inside
        if not inside:
            inside = True
            try:
                handler()
            finally:
                inside = False

    before = signal.signal(signal.SIGUSR1, handle)
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        while not stop.wait(interval):
            signal.pthread_kill(main, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("step", ["call", "future", "stream", "cancel", "snapshot", "abandoned"])
def test_signal_handlers_that_use_the_channel(step: str, target: str) -> None:
    """Each of hundreds of signals during calls, futures and streams is handled, and every call is answered."""
    handled = 0
    with Calls(target) as calls, Calls(target) as other:
        run = getattr(other if step == "cancel" else calls, step)

        def handler() -> None:
            nonlocal handled
            run()
            handled += 1

        with no_hang(f"{step} in a signal handler", 10 * PATIENCE), signals(handler):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                other.hold()
                calls.call()
                calls.future()
                calls.stream()
        assert handled > 20
        other.held = None
        with no_hang("the end"):
            calls.settle()
            other.settle()


def test_finalizers_that_use_the_channel() -> None:
    """Finalizers run by the collector in the middle of a call make calls, take snapshots and abandon streams."""
    finalized = 0

    class Cycle:
        """Freed only by the cyclic collector."""

        def __init__(self, calls: Calls) -> None:
            self.calls = calls
            self.itself = self

        def __del__(self) -> None:
            nonlocal finalized
            finalized += 1
            steps = [calls.call, calls.snapshot, calls.unread]
            if threading.current_thread() is threading.main_thread():
                steps += [calls.abandoned, calls.future]  # grpc itself cannot wait on its own threads
            with suppress(ValueError):
                steps[finalized % len(steps)]()

    thresholds = gc.get_threshold()
    # A process: a finalizer may run on a server's threads, too, which must not wait for themselves.
    with ProcessServer() as server, Calls(server.address) as calls, no_hang("a finalizer", 10 * PATIENCE):
        gc.collect()
        gc.set_threshold(50)
        try:
            for _ in range(150):
                Cycle(calls)
                calls.call()
                calls.future()
                calls.abandoned()
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        assert finalized > 100
        calls.settle()


@pytest.mark.shares_process_state  # grpc keeps the objects of a call through which an exception was raised
def test_a_signal_handler_that_raises(target: str) -> None:
    """After a handler raises repeatedly during calls, later calls are answered and nothing stays counted."""
    armed = False

    def expire() -> None:
        if armed:
            raise SoftTimeLimitError

    raised = answered = 0
    with Calls(target) as calls, no_hang("a call", 10 * PATIENCE), signals(expire, 0.005):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                armed = True
                calls.call()
                armed = False
                answered += 1
            except SoftTimeLimitError:
                armed = False
                raised += 1
        armed = False
        calls.settle()
        calls.call()
    assert raised > 10
    assert answered > 10
