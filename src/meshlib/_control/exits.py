"""Calls while the interpreter exits, when no control thread can start.

An ``atexit`` handler or a finalizer may make the first call of a process, and some handlers run after meshlib's own. By
then CPython 3.12 starts no thread, later versions start none while they finalize, and on 3.11 a thread started then
never runs. So no thread is started once the main thread has ended. The thread that waits for a call runs the event loop
of the control plane itself (:class:`Driver`).
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import sleep
from typing import Any, Final, final

from meshlib._adapt.timed_queue import take
from meshlib._control.timers import monotonic

__all__ = ["Driver", "spawn", "threadless"]

POLL: Final = 0.005
"""Seconds between two checks of a thread that waits while another one runs the loop."""

finished = False
"""Whether meshlib's own ``atexit`` handler has run: the control thread is gone."""


def threadless(finalizing: Callable[[], bool] = sys.is_finalizing) -> bool:
    """Whether the interpreter is exiting, so that this thread cannot start others.

    Other threads may outlive the main one by hours. They go on as before if the interpreter lets them.
    """
    if finalizing():
        return True
    main = threading.main_thread()
    if main.is_alive():
        return False
    return threading.current_thread() is main or not _starts()


def spawn(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Run ``target`` on a daemon thread; at once on this one if the interpreter exits or no thread starts."""
    if not threadless():
        thread = threading.Thread(target=target, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            pass
        else:
            return thread
    target()
    return None


def _starts() -> bool:
    """Whether a new thread starts."""
    if finished:
        return False
    try:
        threading.Thread(target=_nothing, name="meshlib-probe", daemon=True).start()
    except RuntimeError:
        return False
    return True


def _nothing() -> None:
    """Do nothing: the target of the probe thread."""


class _Loop(asyncio.SelectorEventLoop):
    """A loop that stays open: later handlers may need it. Made without the policy, which may be gone."""

    def __init__(self) -> None:
        super().__init__()
        self.time = monotonic  # type: ignore[method-assign]
        self.set_exception_handler(_reported)

    def __del__(self, suppress: Any = suppress) -> None:
        with suppress(Exception):  # modules may be gone
            self.close()


def _reported(
    loop: asyncio.AbstractEventLoop, context: dict[str, Any], finalizing: Callable[[], bool] = sys.is_finalizing
) -> None:
    """Report an error of the loop, except at interpreter exit, where pending tasks are not an error."""
    if not finalizing():
        loop.default_exception_handler(context)


@final
class Driver:
    """An event loop without its own thread: waiting threads run it, one at a time.

    A signal handler or a callback may wait on the thread that runs it. asyncio cannot run a loop inside itself, so only
    other threads or the timeout end such a wait: see :attr:`inside`.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = _Loop()
        self._owner = 0
        """Id of the thread that runs the loop; 0: none."""

    @property
    def inside(self) -> bool:
        """Whether the calling thread is inside the loop: nothing runs it while this thread waits."""
        return self._owner == threading.get_ident()

    def event(self) -> "DrivenEvent":
        """Return a flag whose ``wait`` runs the loop."""
        return DrivenEvent(self)

    def run(self, ready: Callable[[], bool], timeout: float | None) -> None:
        """Run the loop until :func:`ready` may be true, at most ``timeout`` seconds."""
        me = threading.get_ident()
        if self._owner == 0:  # uninterrupted
            self._owner = me  # uninterrupted
            try:  # uninterrupted
                self._run(ready, timeout)
            finally:
                self._owner = 0  # uninterrupted
        else:
            sleep(POLL if timeout is None else min(timeout, POLL))

    def _run(self, ready: Callable[[], bool], timeout: float | None) -> None:
        around = asyncio._get_running_loop()
        try:
            if ready():
                return
            asyncio._set_running_loop(None)  # the application may call from inside its own loop
            timer = None if timeout is None else self.loop.call_later(timeout, self.loop.stop)
            try:
                self.loop.run_forever()
            finally:
                if timer is not None:
                    timer.cancel()
        finally:
            asyncio._set_running_loop(around)

    def stop(self) -> None:
        """Make the thread that runs the loop check whether it is done."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.loop.stop)


@final
class DrivenEvent:
    """A flag that one thread waits for by running the loop.

    Args:
        driver: owns the loop.
    """

    __slots__ = ("_driver", "_queue", "_set")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._set = False
        self._queue: SimpleQueue[None] = SimpleQueue()
        """Gets an item when set, for a thread that cannot run the loop."""

    def set(self) -> None:
        """Set it, which ends every wait."""
        self._set = True
        self._queue.put(None)
        self._driver.stop()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Run the loop until set, at most ``timeout`` seconds; return whether it is set."""
        end = None if timeout is None else monotonic() + timeout
        while not self._set:
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                break
            if self._driver.inside:
                with suppress(Empty):
                    take(self._queue, left)
            else:
                self._driver.run(self.is_set, left)
        return self._set
