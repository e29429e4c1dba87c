"""Time, randomness, events and threads of the sync shell, in one place so that tests can replace them."""

import asyncio
import random
import selectors
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, final

from meshlib._adapt.timed_queue import take
from meshlib._control.exits import Driver, spawn
from meshlib._control.timers import clock_of, monotonic

__all__ = ["CLOCK", "Clock", "Event", "ExitClock"]

PAUSE: Final = 0.0002
PAUSES: Final = 100
"""Interval and number of polls while a thread waits for another to leave a step: that thread may be running a
signal handler, for any length of time."""
_MILLISECOND: Final = 0.001


class Event(Protocol):
    """The part of ``threading.Event`` that the shell uses."""

    def set(self) -> None:
        """End every wait."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, at most ``timeout`` seconds; return whether it is set."""
        ...


_selector: Callable[[], selectors.BaseSelector] | None = None
"""Selector of the control thread's loop; None: asyncio's default."""

# gevent may have removed epoll. This module must import all the same: settings.py reports why there is no channel.
if sys.platform == "linux" and hasattr(selectors, "EpollSelector"):

    class _Selector(selectors.EpollSelector):
        """Sleep for less than a millisecond. epoll rounds up to milliseconds; a connection to loopback takes less."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is None or not 0 < timeout < _MILLISECOND:
                return super().select(timeout)
            ready = super().select(0)
            if not ready:
                time.sleep(timeout)
                ready = super().select(0)
            return ready

    _selector = _Selector


@final
class _Flag:
    """A reentrant flag: a signal handler that interrupts ``set`` or ``wait`` may call either. ``threading.Event`` has a
    lock in Python, so a signal handler that sets one would deadlock."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._queue.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        try:
            take(self._queue, timeout)
        except Empty:
            return False
        self._queue.put(None)  # stay set
        return True


class Clock:
    """The real clock and threads."""

    now: Callable[[], float] = staticmethod(monotonic)
    linger = 1.0
    """Seconds the control thread stays after the last channel closed: some programs make a channel for each call."""

    def rng(self) -> random.Random:
        """The generator for jitter and random choices."""
        return random.Random()

    ident: Callable[[], int] = staticmethod(threading.get_ident)
    """The identifier of the calling thread."""

    def pause(self, turn: int) -> bool:
        """Pause for another thread, as poll number ``turn``; False after the last poll."""
        time.sleep(PAUSE)
        return turn < PAUSES

    def event(self) -> Event:
        """A flag to wait for."""
        return _Flag()

    @property
    def inside_loop(self) -> bool:
        """Whether this thread is inside the control loop, which no other thread runs while this one waits."""
        return False

    def spawn(self, target: Callable[[], None], name: str) -> threading.Thread | None:
        """Start a daemon thread; at exit, or if none can start, run ``target`` at once."""
        return spawn(target, name)

    def control(self, target: Callable[[], None]) -> threading.Thread | None:
        """Start the control thread; None: the thread that waits runs the loop.

        Raises:
            RuntimeError: no thread could be started.
        """
        thread = threading.Thread(target=target, name="meshlib-control", daemon=True)
        thread.start()
        return thread

    def loop(self) -> asyncio.AbstractEventLoop:
        """An event loop for the control thread, whose timers use :attr:`now`."""
        loop: Any = asyncio.new_event_loop() if _selector is None else asyncio.SelectorEventLoop(_selector())
        try:
            if clock_of(loop) is monotonic:
                loop.time = monotonic  # for the time-outs of asyncio
        except BaseException:  # raised by a signal handler
            loop.close()
            raise
        return loop  # type: ignore[no-any-return]

    def discard(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close a loop that no thread has run."""
        loop.close()


@final
class ExitClock(Clock):
    """The clock of an exiting interpreter. It has no threads: the thread that waits for an event runs the loop."""

    linger = 0.0

    def __init__(self) -> None:
        self._driver = Driver()

    def event(self) -> Event:
        """A flag to wait for."""
        return self._driver.event()

    @property
    def inside_loop(self) -> bool:
        """Whether this thread is inside the loop."""
        return self._driver.inside

    def control(self, target: Callable[[], None]) -> None:
        """Start no thread."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, run while a thread waits."""
        return self._driver.loop

    def discard(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the loop: all channels at exit share it."""


CLOCK = Clock()
