"""One step of a machine at a time, without a lock that a thread could wait for without end.

Signal handlers, finalizers and callbacks of weak references run between two instructions of any thread, also of one
that is inside a step, and may come back to the same machine: they make a call, cancel one, close the channel. A lock
would have them wait for the thread they interrupted. A re-entrant one would let them in, and deadlocks all the same
where another thread holds grpc's lock and waits for ours. So nobody waits here for longer than a moment:

- A step that finds another one under way beneath itself is left to that one, which catches up when it has ended; or the
  caller decides without it, from what cannot change.
- A step of another thread has a little patience first, and is then left in the same way.
- What must be done at once is a stretch of plain loads, comparisons and stores. CPython looks for signals, for other
  threads and for garbage to collect where it calls, where it enters a function, where it jumps back, and up to 3.11
  also where it allocates a container. It never does between two such lines, so they need no lock. Each of them is
  marked ``# uninterrupted``, and ``tests/core/test_serial.py`` looks at the instructions. (A build of CPython without
  the GIL would need a lock there. There is no grpcio for one.)
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar, final

__all__ = ["ALONE", "Threads", "WorkSerializer"]

T = TypeVar("T")


class Threads(Protocol):
    """The threads of a shell."""

    def ident(self) -> int:
        """The calling thread; never 0."""
        ...

    def pause(self, turn: int) -> bool:
        """Waits a moment for another thread, ``turn`` times before this one; False: long enough."""
        ...


@final
class _Alone:
    """A shell with one thread."""

    def ident(self) -> int:
        return 1

    def pause(self, turn: int) -> bool:
        return False


ALONE: Threads = _Alone()


@final
class WorkSerializer:
    """Runs steps one at a time. (C-core has a class of this name that does the same for its closures.)

    Args:
        threads: of the shell.
    """

    __slots__ = ("_ident", "_left", "_pause", "owner", "torn")

    def __init__(self, threads: Threads = ALONE) -> None:
        self.owner = 0
        """The thread that is inside a step; 0: none."""
        self.torn = False
        """A step was cut short by an exception, such as a signal handler raises; cleared by whoever mends that."""
        self._left: deque[Callable[[], object]] = deque()
        self._ident = threads.ident
        self._pause = threads.pause

    @property
    def inside(self) -> bool:
        """Whether the calling thread is inside a step."""
        return self.owner == self._ident()

    def run(self, step: Callable[[], T], otherwise: T, *, later: bool = True, patient: bool = True) -> T:
        """Runs ``step``, and returns what it returns.

        If another one is under way and does not end in a moment (``patient``) or at once, ``otherwise`` is returned,
        and the thread that is inside runs ``step`` when it has done with its own; with ``later=False`` nobody does.
        """
        me = self._ident()
        turn = 0
        while True:
            if self.owner == 0:  # uninterrupted
                self.owner = me  # uninterrupted
                try:  # uninterrupted
                    found = step()
                except BaseException:
                    self.torn = True
                    raise
                finally:
                    self.owner = 0  # uninterrupted
                break
            if self.owner == me or not patient or not self._pause(turn):
                if later:
                    self._left.append(step)
                found = otherwise
                break
            turn += 1
        # Also after leaving a step to another thread: that may have ended before it could see it.
        if self._left:
            self._catch_up(me)
        return found

    def _catch_up(self, me: int) -> None:
        """Runs what was left, unless a thread is inside: that one looks when it leaves."""
        while self._left:
            if self.owner == 0:  # uninterrupted
                self.owner = me  # uninterrupted
                try:  # uninterrupted
                    while self._left:
                        self._first_left()
                except BaseException:
                    self.torn = True
                    raise
                finally:
                    self.owner = 0  # uninterrupted
            else:
                return

    def _first_left(self) -> None:
        step = self._left[0]
        try:
            step()
        finally:
            self._left.popleft()
