"""A timed wait for an item of a ``SimpleQueue``."""

from queue import Empty, SimpleQueue
from typing import TypeVar

__all__ = ["take"]

T = TypeVar("T")


def take(queue: SimpleQueue[T], timeout: float | None) -> T:
    """Remove and return an item, waiting at most ``timeout`` seconds for one; None: no limit.

    ``SimpleQueue.get`` alone may wait for ever. Up to CPython 3.12, it first takes a lock that an empty queue has left
    free, and computes the rest of the time. If that is negative by then, as after a timeout of a microsecond, it waits
    without a limit. The first get takes that lock, so the second one waits on it.

    Raises:
        Empty: there was none in time.
    """
    try:
        return queue.get_nowait()
    except Empty:
        pass
    return queue.get(timeout=None if timeout is None else max(0.0, timeout))
