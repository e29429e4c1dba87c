"""Serialization of a machine's steps, without a lock that a thread could wait for indefinitely.

Signal handlers, finalizers and weak reference callbacks run between two instructions of any thread, even inside a step.
They may re-enter the same machine: start or cancel a call, close the channel. With a lock they would wait for the
thread they interrupted. A re-entrant lock would let them in, and still deadlock if another thread holds grpc's lock and
waits for ours. So no thread waits here for longer than a moment:

- A step that interrupts another step of its thread is queued, and runs after that one. Or the caller decides without
  it, from immutable state.
- A step of another thread waits briefly, and is then queued in the same way.
- Work that must be done at once is a section of plain loads, comparisons and stores. CPython checks for signals,
  other threads and garbage collection at calls, function entries and backward jumps, and up to 3.11 also where it
  allocates a container. It never does between two such lines, so they need no lock. Each is marked
  ``# uninterrupted``, and ``tests/core/test_serial.py`` checks the instructions. (A build of CPython without the GIL
  would need a lock there. There is no grpcio for one.)
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar, final

__all__ = ["ALONE", "Threads", "WorkSerializer"]

T = TypeVar("T")


class Threads(Protocol):
    """Thread operations of a shell."""

    def ident(self) -> int:
        """Return the id of the calling thread; never 0."""
        ...

    def pause(self, turn: int) -> bool:
        """Wait briefly for another thread, after ``turn`` earlier waits; False: stop waiting."""
        ...


@final
class _Alone:
    """Shell with one thread."""

    def ident(self) -> int:
        return 1

    def pause(self, turn: int) -> bool:
        return False


ALONE: Threads = _Alone()


@final
class WorkSerializer:
    """Runs steps one at a time. (Like C-core's class of this name, for its closures.)

    Args:
        threads: of the shell.
    """

    __slots__ = ("_ident", "_left", "_pause", "owner", "torn")

    def __init__(self, threads: Threads = ALONE) -> None:
        self.owner = 0
        """Id of the thread that is inside a step; 0: none."""
        self.torn = False
        """Set when an exception, such as a signal handler's, interrupts a step; cleared by the repair."""
        self._left: deque[Callable[[], object]] = deque()
        self._ident = threads.ident
        self._pause = threads.pause

    @property
    def inside(self) -> bool:
        """Whether the calling thread is inside a step."""
        return self.owner == self._ident()

    def run(self, step: Callable[[], T], otherwise: T, *, later: bool = True, patient: bool = True) -> T:
        """Run ``step`` and return its result.

        If another step is running, returns ``otherwise``; with ``patient``, only after a short wait for that step. The
        thread of the running step then runs ``step`` next; with ``later=False`` it is dropped.
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
        # Also after queueing a step: the other thread may have left before it could see the queue.
        if self._left:
            self._catch_up(me)
        return found

    def _catch_up(self, me: int) -> None:
        """Run queued steps, unless a thread is inside, which checks the queue when it leaves."""
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
