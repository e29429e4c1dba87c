"""Waiting between threads: a condition without a lock, a timer on the control thread, and which threads may wait."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TypeVar, final

from meshlib._sync.clock import Clock, Event

__all__ = ["Monitor", "ThreadContext", "Timer"]

T = TypeVar("T")


class ThreadContext(Enum):
    """The kind of the current thread, which decides what may be done on it."""

    USER = "the application's, inside one of our methods: no callbacks, it may hold locks they need"
    GRPC = "grpc's, which delivers events: no waiting, other calls depend on it"
    CONTROL = "the control thread: neither"
    ASIDE = "a short-lived one: both"


@final
class Monitor:
    """A reentrant condition without a lock: a signal handler or finalizer may interrupt wait or notify and call either.

    Args:
        clock: makes the events.
    """

    __slots__ = ("_clock", "_waiters")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiters: dict[Event, None] = {}

    def wait_for(self, ready: Callable[[], T | None], timeout: float | None = None) -> T | None:
        """Block until ``ready()`` returns something. Several threads may call ``ready`` at once, also reentrantly.

        Returns:
            That value, or None after ``timeout`` seconds.
        """
        found = ready()
        if found is not None:
            return found
        deadline = None if timeout is None else self._clock.now() + timeout
        while True:
            event = self._clock.event()
            try:
                self._waiters[event] = None  # before the next check: a later change then sets the event
                found = ready()
                if found is not None:
                    return found
                left = None if deadline is None else deadline - self._clock.now()
                if left is not None and left <= 0:
                    return None
                event.wait(left)
            finally:
                self._waiters.pop(event, None)

    def notify(self) -> None:
        """Wake all waiters, so that they check again."""
        for event in list(self._waiters):
            event.set()


@final
class Timer:
    """Calls a function on the control thread, unless cancelled before. Any thread may make and cancel it.

    Args:
        loop: the control thread's.
        clock: the clock of ``when``.
        when: monotonic second.
        fn: the function to call.

    Raises:
        RuntimeError: the loop is closed.
    """

    __slots__ = ("_clock", "_fn", "_handle", "_loop", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, when: float, fn: Callable[[], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._when = when
        self._fn: Callable[[], None] | None = fn
        self._handle: asyncio.TimerHandle | None = None
        loop.call_soon_threadsafe(self._arm)

    def cancel(self) -> None:
        """Cancel the timer, and release its function at once."""
        self._fn = None
        try:
            self._loop.call_soon_threadsafe(self._disarm)
        except RuntimeError:
            self._handle = None  # the loop is closed, and its timers with it

    def _arm(self) -> None:
        if self._fn is not None:
            self._handle = self._loop.call_later(max(0.0, self._when - self._clock.now()), self._run)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _run(self) -> None:
        fn, self._fn = self._fn, None
        if fn is not None:
            fn()
