"""Where the sync shell gets time, chance, locks and threads from: one place, so a test can put another world there."""

import asyncio
import random
import selectors
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, final

from meshlib._control.exits import Driver, spawn
from meshlib._control.timers import clock_of, monotonic

__all__ = ["CLOCK", "Clock", "Event", "ExitClock"]

PAUSE: Final = 0.0002
PAUSES: Final = 100
"""How long, and how often, a thread waits for another to leave a step: that one may be beneath a signal handler, and
away for as long as that takes."""
_MILLISECOND: Final = 0.001


class Event(Protocol):
    """What is used of ``threading.Event``."""

    def set(self) -> None:
        """Ends every wait."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until set, at most ``timeout`` seconds; whether it is set."""
        ...


_selector: Callable[[], selectors.BaseSelector] | None = None
"""What the loop of the control plane waits by; None: whatever asyncio has."""

# Where gevent has taken it away this module can be imported all the same: settings.py says why there is no channel.
if sys.platform == "linux" and hasattr(selectors, "EpollSelector"):

    class _Selector(selectors.EpollSelector):
        """epoll counts in whole milliseconds, rounded up, and a connection to loopback takes less than one."""

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
    """A flag that may be set, and waited for, in the middle of being set or waited for. ``threading.Event`` has a lock
    in Python, so that a signal handler that sets one waits for itself."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._queue.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        try:
            self._queue.get(timeout=None if timeout is None else max(0.0, timeout))
        except Empty:
            return False
        self._queue.put(None)  # it stays set
        return True


class Clock:
    """The real world."""

    now: Callable[[], float] = staticmethod(monotonic)
    linger = 1.0
    """Seconds that the control thread stays when the last channel has closed: some programs make one for each call."""

    def rng(self) -> random.Random:
        """What draws jitter and lots."""
        return random.Random()

    ident: Callable[[], int] = staticmethod(threading.get_ident)
    """The calling thread."""

    def pause(self, turn: int) -> bool:
        """Waits a moment for another thread, ``turn`` times before this one; False: long enough."""
        time.sleep(PAUSE)
        return turn < PAUSES

    def event(self) -> Event:
        """A flag to wait for."""
        return _Flag()

    @property
    def inside_loop(self) -> bool:
        """Whether this thread is inside the loop of the control plane, which nobody runs while it waits."""
        return False

    def spawn(self, target: Callable[[], None], name: str) -> threading.Thread | None:
        """Starts a daemon thread; without one, at exit or for lack of resources, does what it would do at once."""
        return spawn(target, name)

    def control(self, target: Callable[[], None]) -> threading.Thread | None:
        """Starts the control thread; None: whoever waits does its work.

        Raises:
            RuntimeError: no thread could be started.
        """
        thread = threading.Thread(target=target, name="meshlib-control", daemon=True)
        thread.start()
        return thread

    def loop(self) -> asyncio.AbstractEventLoop:
        """An event loop for the control thread, whose timers go by :attr:`now`."""
        loop: Any = asyncio.new_event_loop() if _selector is None else asyncio.SelectorEventLoop(_selector())
        try:
            if clock_of(loop) is monotonic:
                loop.time = monotonic  # for the time-outs of asyncio
        except BaseException:  # raised by a signal handler
            loop.close()
            raise
        return loop  # type: ignore[no-any-return]

    def discard(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes a loop that no thread has run."""
        loop.close()


@final
class ExitClock(Clock):
    """The world of an interpreter that exits: no threads; whoever waits for an event runs the loop."""

    linger = 0.0

    def __init__(self) -> None:
        self._driver = Driver()

    def event(self) -> Event:
        """A flag to wait for."""
        return self._driver.event()

    @property
    def inside_loop(self) -> bool:
        """Whether this thread is inside it."""
        return self._driver.inside

    def control(self, target: Callable[[], None]) -> None:
        """None is started."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that is run while somebody waits."""
        return self._driver.loop

    def discard(self, loop: asyncio.AbstractEventLoop) -> None:
        """It stays: there is one for all that run at the exit."""


CLOCK = Clock()
