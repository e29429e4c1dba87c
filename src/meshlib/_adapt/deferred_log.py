"""Log records whose handlers run on a separate thread.

A handler may take seconds, or send its records through the channel they describe. So no handler runs on the control
thread, on a grpc thread or inside a locked step. A record is made where it happens, with the level check, the
record factory, the context and the thread name of that place. A log thread that lives while there are records handles
it. Records that a caller causes on its own thread use the plain logger.

A signal handler or a finalizer may log between any two instructions here, so queuing takes no lock: appending to a
deque and putting into a ``SimpleQueue`` are single steps.
"""

import atexit
import contextvars
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final, final

from meshlib._adapt.timed_queue import take

__all__ = ["DeferredLogger", "flush"]

IDLE: Final = 0.05
"""Seconds without a record after which the log thread ends."""

LIMIT: Final = 10_000
"""Maximum number of queued records; further ones are dropped and counted."""

EXIT_PATIENCE: Final = 1.0
"""Seconds the exit of the interpreter waits for handlers."""


@final
class _LogThread:
    """The queued records, and the thread that handles them one after another."""

    def __init__(self) -> None:
        self.items: deque[tuple[contextvars.Context, logging.Logger, logging.LogRecord] | threading.Event] = deque()
        self.ended = False
        """The interpreter exits and has flushed the log: no thread starts any more."""
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._handling = threading.Lock()
        """Held while an item is handled, so that two threads never do so at once, nor out of order."""
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def put(self, item: tuple[contextvars.Context, logging.Logger, logging.LogRecord] | threading.Event) -> None:
        """Queue ``item`` for the log thread; handle it here if no thread starts."""
        if len(self.items) >= LIMIT and not isinstance(item, threading.Event):
            self._dropped += 1
            return
        self.items.append(item)
        self._wake.put(None)
        if self._thread is None and not self._start():
            self.drain()

    def drain(self) -> None:
        """Handle queued items on this thread, for a limited time, unless another thread is handling one."""
        if sys.is_finalizing():
            return  # a daemon thread ended inside a handler may hold its lock for ever
        end = monotonic() + EXIT_PATIENCE
        while self.items and monotonic() < end and self._handle_one(0.0):
            pass

    def idle(self) -> bool:
        """Whether everything has been handled."""
        if self.items or not self._handling.acquire(blocking=False):
            return False
        self._handling.release()
        return not self.items

    def _start(self) -> bool:
        """Start the thread; False if the interpreter refuses, at exit or without resources."""
        if self.ended or sys.is_finalizing():
            return False
        thread = self._thread = threading.Thread(target=self._run, name="meshlib-log", daemon=True)
        try:
            thread.start()
        except BaseException as error:
            self._thread = None
            if not isinstance(error, RuntimeError):  # a signal handler raised
                raise
            return False
        return True

    def _run(self) -> None:
        thread = threading.current_thread()
        while True:
            try:
                take(self._wake, IDLE)
            except Empty:
                if self._thread is thread:
                    self._thread = None
                # Items put before that found a thread: they are for this one.
                if not self.items:
                    return
            self._handle_one(-1)

    def _handle_one(self, patience: float) -> bool:
        """Handle the oldest item; False if another thread handles one for longer than ``patience`` seconds."""
        if not self._handling.acquire(timeout=patience):
            return False
        try:
            item = self.items.popleft() if self.items else None
            if isinstance(item, threading.Event):
                item.set()
            elif item is not None:
                context, logger, record = item
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    logger.warning(
                        "log records dropped: count=%d, queue_limit=%d, a log handler is too slow", dropped, LIMIT
                    )
                context.run(logger.handle, record)
        except BaseException as error:  # noqa: BLE001 - from the application's handler or filter; others wait
            thread = threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))
        finally:
            self._handling.release()
        return True


_log_thread = _LogThread()


@final
class DeferredLogger:
    """A logger whose records are handled on the log thread.

    The message is formatted there. Arguments other than text and numbers might change, so they become text here.

    Args:
        name: of the logger.
    """

    __slots__ = ("logger",)

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def debug(self, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at DEBUG."""
        self._log(logging.DEBUG, message, args, None, extra)

    def info(self, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at INFO."""
        self._log(logging.INFO, message, args, None, extra)

    def warning(
        self,
        message: str,
        *args: object,
        exc_info: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, message, args, exc_info, extra)

    def error(
        self,
        message: str,
        *args: object,
        exc_info: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log at ERROR."""
        self._log(logging.ERROR, message, args, exc_info, extra)

    def exception(self, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at ERROR with the exception being handled."""
        self._log(logging.ERROR, message, args, sys.exc_info()[1], extra)

    def _log(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        error: BaseException | None,
        extra: Mapping[str, object] | None,
    ) -> None:
        logger = self.logger
        if not logger.isEnabledFor(level):
            return
        found: Any = None if error is None else (type(error), error, error.__traceback__)
        path, line, function, _ = logger.findCaller(stacklevel=3)
        told = tuple(map(_fixed, args))
        record = logger.makeRecord(logger.name, level, path, line, message, told, found, function, extra)
        _log_thread.put((contextvars.copy_context(), logger, record))


def _fixed(argument: object) -> object:
    if isinstance(argument, str | int | float):
        return argument
    try:
        return str(argument)
    except Exception as error:  # noqa: BLE001 - an application's exception, say, whose ``str()`` fails
        return f"<{type(argument).__name__} whose text cannot be made: {error!r}>"


def flush(timeout: float) -> bool:
    """Wait until every record made so far is handled; False if that takes more than ``timeout`` seconds."""
    if _log_thread.idle():
        return True
    reached = threading.Event()
    _log_thread.put(reached)
    return reached.wait(timeout)


def _at_exit() -> None:
    flush(EXIT_PATIENCE)
    _log_thread.ended = True


def _after_fork_in_child() -> None:
    # Locks, thread and records are the parent's.
    _log_thread.__init__()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
