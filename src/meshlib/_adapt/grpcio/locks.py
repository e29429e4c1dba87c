"""The locks inside grpc's channels, made safe to be interrupted.

grpc guards each channel by a ``threading.Condition``, which is entered and left in Python. A signal handler that raises
there, after the lock was taken or before it is given back, leaves it locked for ever, and with it every call on the
channel. Entered and left in C it is not: CPython does not run a handler between a ``with`` in C and its body.

The start of a call that does not block is guarded by a plain lock besides, under which grpc starts a thread. A second
one that is begun meanwhile on the same thread, in a signal handler, would wait for itself. A re-entrant lock there does
no harm: what it guards is one counter.

Each is done where it is as expected, and left alone elsewhere.

One thread delivers what happens to all calls of a channel that do not block, and waits for the lock of a call that
another thread is inside. A signal handler that interrupts a thread in there, and waits for a call of its own on that
channel, would wait for itself. :func:`depth` says that it is so, and such a call goes over a channel of its own.
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
    """One that is entered and left in C."""

    __slots__ = ()
    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


def interruptible(channel: Any) -> None:
    """Makes the locks of ``channel``, one of grpc's that has just been made, safe to be interrupted."""
    condition = _condition(channel)
    if condition is not None and type(condition) is threading.Condition:
        condition.__class__ = _Condition
    state: Any = getattr(channel, "_call_state", None)
    if type(getattr(state, "lock", None)) is _LOCK:
        state.lock = threading.RLock()


@final
class Glances:
    """Who is looking at a channel, with its lock in hand. In the child of a fork that is made meanwhile the lock would
    be nobody's to give back, and grpc waits for it there."""

    __slots__ = ("inside", "refused")

    def __init__(self) -> None:
        self.inside = 0
        self.refused = False
        """A fork is prepared: nobody is to begin."""


glances: Final = Glances()


def glancing(channel: Any, ask: Callable[[bool], int]) -> Callable[[], int | None]:
    """How to ``ask`` a channel for its connectivity without waiting for a thread that is inside it, or that has left
    its lock behind; None is the answer then. For threads on which no signal handler runs."""
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
"""Functions of grpc's that call the application outside of every lock."""
_INSIDE: Final = frozenset(
    {blocking.__file__, *(str(Path(grpc.__file__).with_name(name)) for name in ("_channel.py", "_common.py"))}
)


def depth() -> int:
    """How many times the calling thread is inside a call of grpc's, one in the middle of the other."""
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
    """The condition of a channel; None: it is not where it was. Cython shows it to nobody but the collector."""
    core = getattr(channel, "_channel", None)
    for state in gc.get_referents(core):
        if type(state).__name__ == "_ChannelState":
            found = [each for each in gc.get_referents(state) if isinstance(each, threading.Condition)]
            if len(found) == 1 and type(getattr(found[0], "_lock", None)) is _RLOCK:
                return found[0]
    return None
