"""Calls, cancels, snapshots and closes in the middle of other calls: in signal handlers, in ``__del__``, and at any
point of the code of a call, over real servers.

Nothing waits forever, every call in flight is answered, and nothing stays counted. A signal ends a hanging test, since
a thread that waits for itself cannot be helped. ``nox -s reentrancy`` tests every point.
"""

import faulthandler
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any, Final, Self

import grpc
import pytest
from tests.interruption import count, interrupt, points

import meshlib
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib.testing import ProcessServer, Server, echo

WHERE: Final = ("_core", "_sync", "_control")
PATIENCE: Final = 5.0
"""Seconds within which a call with a deadline of two must end, on a busy machine."""


class SoftTimeLimitError(Exception):
    """Raised by a signal handler."""


class HangError(BaseException):
    """A wait never ends; not an ``Exception``, which callers may take for a failed call."""


@pytest.fixture
def target() -> Iterator[str]:
    """Two hosts."""
    with Server() as first, Server() as second:
        yield f"static:///{first.address},{second.address}"


@contextmanager
def no_hang(what: str, seconds: float = PATIENCE) -> Iterator[None]:
    """Raise if the block takes longer; a thread that waits for a lock notices only signals."""

    def hangs(_: int, __: object) -> None:
        faulthandler.dump_traceback(all_threads=True)
        raise HangError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Calls:
    """Uses of a channel by an application."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.channel = meshlib.channel(target)
        self.unary = self.channel.unary_unary(echo.UNARY)
        self.streams = self.channel.unary_stream(echo.SERVER_STREAM)
        self.held: Any = None

    def hold(self) -> None:
        """Keep a future in flight."""
        self.held = self.unary.future(b"x", timeout=2.0, metadata=((echo.DELAY_MS, "200"),))

    def call(self) -> None:
        assert self.unary(b"x", timeout=2.0) == b"x"

    def future(self) -> None:
        assert self.unary.future(b"x", timeout=2.0).result() == b"x"

    def stream(self) -> None:
        assert list(self.streams(b"x", timeout=2.0)) != []

    def abandoned(self) -> None:
        """A stream that is never read to its end."""
        for _ in self.streams(b"x", timeout=2.0):
            break

    def unread(self) -> None:
        """Drop a future and a stream at once."""
        self.unary.future(b"x", timeout=2.0)
        self.streams(b"x", timeout=2.0)

    def cancel(self) -> None:
        if self.held is not None:
            self.held.cancel()

    def done(self) -> None:
        if self.held is not None:
            self.held.done()

    def snapshot(self) -> None:
        self.channel.mesh.snapshot()

    def another(self) -> None:
        """Make a new channel for one call."""
        with meshlib.channel(self.target) as channel:
            assert channel.unary_unary(echo.UNARY)(b"x", timeout=2.0) == b"x"

    def close(self) -> None:
        self.channel.close()

    def settle(self) -> None:
        """Everything ends, and nothing stays counted."""
        end = time.monotonic() + PATIENCE
        while any(host.in_flight for host in self.channel.mesh.snapshot().hosts):
            assert time.monotonic() < end, self.channel.mesh.snapshot()
            time.sleep(0.001)

    def __enter__(self) -> Self:
        self.call()
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


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
            total = count(lambda: run(calls), WHERE)
        tried = points(total, rng, 7 if name == "call" else 14)
        for at in tried:
            with no_hang(f"{name} with an exception at place {at} of {total}"):
                interrupt(lambda: run(calls), at, expire, WHERE)
                calls.settle()
                calls.call()
                calls.future()
        assert raised >= 0.8 * len(tried)


def at_each_place(run: Callable[[int], int], rng: Random) -> None:
    """Run once without an interruption to count the points, then again for each tested point."""
    total = run(0)
    assert total > 50
    for at in points(total, rng):
        try:
            run(at)
        except AssertionError as error:
            raise AssertionError(f"interrupted at place {at} of {total}") from error


def on_loop(loop: Any, step: Callable[[], object]) -> None:
    """Return once ``step`` has run on the control thread."""
    done = threading.Event()
    loop.call_soon_threadsafe(lambda: (step(), done.set()))
    assert done.wait(PATIENCE)


def ended(prefix: str) -> None:
    """Return once the threads of that name have ended."""
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread


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
        end = time.monotonic() + PATIENCE
        while not runtime.cluster.waiting:
            assert time.monotonic() < end, runtime.cluster
            time.sleep(0.001)
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
