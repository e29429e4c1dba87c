"""A clock that patches of the module ``time`` do not affect, and event loop timers that use it.

Tests freeze the clock with freezegun, which replaces ``time.monotonic`` in every module. This stops the clock of
asyncio's own loops: their timers never fire, or fire all at once, and so would the deadline of a waiting call.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from importlib.util import find_spec, module_from_spec
from typing import Any, Final, Protocol, final
from weakref import ref

__all__ = ["TimerHandle", "call_at", "clock_of", "monotonic"]

SKEW: Final = 1.0
"""Seconds between a loop's clock and the true one from which the loop's timers are unusable."""


def _unpatched() -> Callable[[], float]:
    """Return ``time.monotonic`` of a second copy of the module, which no other code references."""
    spec = find_spec("time")
    if spec is None or spec.loader is None:
        return time.monotonic
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[], float] = module.monotonic
    return found


monotonic: Final = _unpatched()
"""Monotonic seconds of the machine."""


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the loop's own clock, without a reference to the loop: for asyncio's own loops, :data:`monotonic`."""
    if getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time:
        return monotonic
    known = ref(loop)

    def now() -> float:
        owner = known()
        if owner is None:
            raise RuntimeError("the event loop of this clock is closed")
        return owner.time()

    return now


class TimerHandle(Protocol):
    """The used part of ``asyncio.TimerHandle``."""

    def when(self) -> float:
        """Return its due time."""
        ...

    def cancel(self) -> None:
        """Cancel its callback, if that has not run."""
        ...


def call_at(
    loop: asyncio.AbstractEventLoop,
    now: Callable[[], float],
    at: float,
    callback: Callable[[], Any],
    context: Context | None = None,
) -> TimerHandle:
    """Make ``loop`` run ``callback`` when the clock ``now`` reaches ``at``."""
    skew = loop.time() - now()
    if -SKEW < skew < SKEW:
        return loop.call_at(at, callback, context=context)
    if now is monotonic:
        return _Alarm(loop, at, at - now(), callback, context)
    return loop.call_at(at + skew, callback, context=context)


@final
class _Alarm:
    """A timer for a loop with a patched clock: its own thread waits. Only tests use it, with few timers."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        at: float,
        delay: float,
        callback: Callable[[], Any],
        context: Context | None,
    ) -> None:
        self._at = at
        self._loop = loop
        self._callback: Callable[[], Any] | None = callback
        self._context = context
        self._cancelled = threading.Event()
        threading.Thread(
            target=self._wait, args=(min(max(0.0, delay), threading.TIMEOUT_MAX),), name="meshlib-alarm", daemon=True
        ).start()

    def when(self) -> float:
        """See :class:`TimerHandle`."""
        return self._at

    def cancel(self) -> None:
        """See :class:`TimerHandle`."""
        self._callback = None
        self._cancelled.set()

    def _wait(self, delay: float) -> None:
        if not self._cancelled.wait(delay):
            with suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._fire, context=self._context)

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
