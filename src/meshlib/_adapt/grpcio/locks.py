"""The locks inside grpc's channels, made safe to interrupt.

grpc guards each channel by a ``threading.Condition``, whose ``__enter__`` and ``__exit__`` are Python code. If a signal
handler raises inside one of them, the lock is never released, and every call on the channel blocks. With both in C this
cannot happen: CPython runs no handler between them and the body of the ``with``.

A plain lock also guards the start of a non-blocking call, and grpc starts a thread under it. A second call started
meanwhile on the same thread, in a signal handler, would deadlock. A re-entrant lock is safe there: it guards one
counter.

A lock is replaced only if it has the type that known versions of grpc use.

One thread delivers the events of all non-blocking calls of a channel. To deliver an event it acquires the lock of that
call, which the application's thread may hold. If a signal handler interrupts that thread, and waits for a call of its
own on the same channel, it deadlocks. :func:`depth` detects this, and the handler's call uses a separate channel.
"""

import gc
import sys
import threading
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any, Final, final

import grpc

from meshlib._adapt.grpcio import blocking

__all__ = ["depth", "glances", "glancing", "interruptible"]

_LOCK: Final = type(threading.Lock())
_RLOCK: Final = type(threading.RLock())


class _Condition(threading.Condition):
    """A condition that is entered and left in C."""

    __slots__ = ()
    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


def interruptible(channel: Any) -> None:
    """Make the locks of ``channel``, a new grpc channel, safe to interrupt."""
    condition = _condition(channel)
    if condition is not None and type(condition) is threading.Condition:
        condition.__class__ = _Condition
    state: Any = getattr(channel, "_call_state", None)
    if type(getattr(state, "lock", None)) is _LOCK:
        state.lock = threading.RLock()


@final
class Glances:
    """The polls in progress, which hold a channel's lock. In the child of a fork made meanwhile no thread would release
    it, and grpc waits for it there."""

    __slots__ = ("inside", "refused")

    def __init__(self) -> None:
        self.inside = 0
        self.refused = False
        """A fork is being prepared: no poll may begin."""


glances: Final = Glances()


def glancing(channel: Any, ask: Callable[[bool], int]) -> Callable[[], int | None]:
    """Return a function that polls a channel by ``ask`` without waiting for its lock: it returns None while a thread is
    inside, or left it locked. For threads on which no signal handler runs."""
    condition = _condition(channel)
    if condition is None:
        return lambda: ask(True)
    lock: Any = condition._lock  # type: ignore[attr-defined]

    def glance() -> int | None:
        glances.inside += 1  # uninterrupted
        try:
            if glances.refused or not lock.acquire(False):
                return None
            try:
                return ask(True)
            finally:
                lock.release()
        finally:
            glances.inside -= 1  # uninterrupted

    return glance


_OUTSIDE: Final = frozenset({"channel_spin", "handle_event", "consume_request_iterator"})
"""grpc's functions that call the application outside of every lock."""
_INSIDE: Final = frozenset(
    {blocking.__file__, *(str(Path(grpc.__file__).with_name(name)) for name in ("_channel.py", "_common.py"))}
)


def depth() -> int:
    """Return the number of nested grpc calls on the calling thread's stack."""
    found = 0
    inside = False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        within = code.co_filename in _INSIDE and code.co_name not in _OUTSIDE
        if within and not inside:
            found += 1
        inside = within
        frame = frame.f_back
    return found


def _condition(channel: Any) -> threading.Condition | None:
    """Return the condition of a channel; None: it has moved. Cython exposes it only to the collector."""
    core = getattr(channel, "_channel", None)
    for state in gc.get_referents(core):
        if type(state).__name__ == "_ChannelState":
            found = [each for each in gc.get_referents(state) if isinstance(each, threading.Condition)]
            if len(found) == 1 and type(getattr(found[0], "_lock", None)) is _RLOCK:
                return found[0]
    return None
