"""Uses of a channel by an application, and the points at which they are interrupted."""

import faulthandler
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final, Self

from tests.interruption import points
from tests.waiting import until

import meshlib
from meshlib._sync import control
from meshlib.testing import echo

WHERE: Final = ("_core", "_sync", "_control")
PATIENCE: Final = 5.0
"""Seconds within which a call with a deadline of two must end, on a busy machine."""


class SoftTimeLimitError(Exception):
    """Raised by a signal handler."""


class HangError(BaseException):
    """A wait never ends; not an ``Exception``, which callers may take for a failed call."""


@contextmanager
def no_hang(what: str, seconds: float = PATIENCE) -> Iterator[None]:
    """Raise if the block takes longer; a thread that waits for a lock notices only signals."""

    def hangs(_: int, __: object) -> None:
        faulthandler.dump_traceback(all_threads=True)
        raise HangError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # the time limit of the test, by the same signal
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)


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
        mesh = self.channel.mesh
        until(lambda: not any(host.in_flight for host in mesh.snapshot().hosts), "nothing is in flight")

    def __enter__(self) -> Self:
        self.call()
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


def at_each_place(run: Callable[[int], int], rng: Random) -> None:
    """Run once without an interruption to count the points, then again for each tested point."""
    total = run(0)
    assert total > 50
    for at in points(total, rng):
        try:
            run(at)
        except AssertionError as error:
            raise AssertionError(f"interrupted at place {at} of {total}") from error


def ended(prefix: str) -> None:
    """Return once the threads of that name have ended; an unused control thread would linger for a second."""
    control.current().end_unused()
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread
