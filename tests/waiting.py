"""Waits with a deadline: for a condition, for a line of the log, for the end of a child process.

``until`` and ``aio_until`` poll, because nothing signals their conditions: the state of a connection, a snapshot and a
count change on the control thread, on a thread of grpc or in the kernel, and no interface of meshlib reports it. All
such polling is here. If a condition never becomes true, the test fails with a message that names the condition, long
before pytest's timeout.

A test that can wait for the thing itself does not poll: ``wait_until`` of a test server or a ``Load``, an event that a
handler sets, or :func:`log_lines`.
"""

import asyncio
import logging
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 10.0
"""Seconds after which a wait fails."""
_PAUSE = 0.002  # seconds


def until(condition: Callable[[], object], what: object = "the condition", timeout: float = PATIENCE) -> None:
    """Wait until a condition that other threads change is true, by polling; the first check is at once."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not in {timeout:g} s: {what}"
        time.sleep(_PAUSE)


async def aio_until(condition: Callable[[], object], what: object = "the condition") -> None:
    """The same in asyncio; other tasks run in between."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not in {PATIENCE:g} s: {what}"
        await asyncio.sleep(_PAUSE)


class LogLines(logging.Handler):
    """The lines of a logger, which can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._added = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line, and wake the waits."""
        with self._added:
            self._lines.append(record.getMessage())
            self._added.notify_all()

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until that many lines contain the pattern."""

        def found() -> bool:
            return sum(re.search(pattern, line) is not None for line in self._lines) >= times

        with self._added:
            assert self._added.wait_for(found, PATIENCE), f"{pattern!r} not {times} times in {self._lines}"


@contextmanager
def log_lines(level: int = logging.INFO) -> Iterator[LogLines]:
    """The lines that meshlib logs in the block."""
    logger, lines = logging.getLogger("meshlib"), LogLines()
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(level)
    try:
        yield lines
    finally:
        logger.setLevel(before)
        logger.removeHandler(lines)


def exit_status(pid: int, timeout: float = PATIENCE) -> int:
    """The exit status of a forked child; it is killed if it does not end in time."""
    ends = os.pidfd_open(pid)
    try:
        if not select.select([ends], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(ends)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
