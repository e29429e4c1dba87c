"""Virtual time for real threads: one runs at a time, and when all of them wait, time jumps to the next event.

A participating thread has a seat. It passes the baton on only where it waits (:meth:`Baton.block`), so a run is always
the same: first runnable threads, in the order of their wake-ups, then those with the next timer. If no thread is
runnable and no timer is set, that is a deadlock, raised at once with a picture of who waits for what.
"""

import heapq
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

from tests.shells.script import EPOCH, tick

__all__ = ["Baton", "DeadlockError", "Seat", "SpinError"]

SAFETY: Final = 30.0
"""Real seconds a thread may hold the baton: beyond them it blocks outside this world's view."""


class DeadlockError(AssertionError):
    """No thread is runnable."""


class SpinError(BaseException):
    """A thread polls forever. No ``Exception``: a shell might take it for an attempt's."""


class Over(BaseException):
    """The world has failed: threads unwind."""


@final
class Seat:
    """The seat of one thread in the world."""

    __slots__ = ("blocked", "go", "holds", "hurries", "name", "turn", "waits_for")

    def __init__(self, name: str) -> None:
        self.name = name
        self.go = threading.Lock()
        self.go.acquire()
        self.blocked = False
        self.turn = 0
        self.waits_for = ""
        self.holds = 0
        """Locks it holds."""
        self.hurries = False
        """The thread must not wait: others depend on it."""


class Spawned(threading.Thread):
    """A thread with a seat."""

    seat: Seat


@final
class Baton:
    """The world's time and threads. The thread that creates it has the first seat, and the baton."""

    def __init__(self) -> None:
        self.now = EPOCH
        self.errors: list[BaseException] = []
        self._here = threading.local()
        self._seats: list[Seat] = []
        self._ready: deque[Seat] = deque()
        self._timers: list[tuple[float, int, Seat, int]] = []
        self._count = 0
        self._threads: list[Spawned] = []
        self._closing = False
        self._broken: DeadlockError | None = None
        self._sit(Seat("the test"))

    @property
    def seat(self) -> Seat:
        """The seat of the calling thread."""
        seat: Seat = self._here.seat
        return seat

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def block(self, until: float | None, waits_for: str) -> None:
        """Wait for a wake-up, or until a moment."""
        seat = self.seat
        if self._broken is not None:
            raise self._broken if seat is self._seats[0] else Over
        if seat.hurries:
            raise AssertionError(f"{seat.name} must not wait, and would for {waits_for}")
        seat.waits_for = waits_for
        seat.turn += 1
        seat.blocked = True
        if until is not None:
            self._count += 1
            heapq.heappush(self._timers, (tick(until), self._count, seat, seat.turn))
        self._pass_on(seat)

    def wake(self, seat: Seat) -> None:
        """Make ``seat`` runnable."""
        if seat.blocked:
            seat.blocked = False
            self._ready.append(seat)

    def others_first(self) -> None:
        """Let other runnable threads run first."""
        if self._ready:
            self.block(self.now, "its turn")

    def spawn(self, thread: "Spawned") -> None:
        """Give ``thread`` a seat; it runs when others wait."""
        self._seats.append(thread.seat)
        self._threads.append(thread)
        self._ready.append(thread.seat)
        threading.Thread.start(thread)

    def run(self, seat: Seat, target: Callable[[], object]) -> None:
        """The body of a thread."""
        self._here.seat = seat
        self._take(seat)
        try:
            if self._broken is None:
                target()
        except Over:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by close(), in the test's own thread
            self.errors.append(error)
        finally:
            self._seats.remove(seat)
            if self._closing and len(self._seats) == 1:
                self.wake(self._seats[0])
            following = self._next()
            if following is not None:
                following.go.release()

    def close(self) -> None:
        """Let every thread end, and raise their errors. To be called by the thread that created the baton."""
        seat = self.seat
        self._closing = True
        with suppress(DeadlockError):
            if len(self._seats) > 1:
                self.block(None, "the end of the others")
        while len(self._seats) > 1:  # a broken world: every thread is runnable, and unwinds
            self._ready.append(seat)
            self._pass_on(seat)
        for thread in self._threads:
            threading.Thread.join(thread, SAFETY)
        if self.errors and not isinstance(self.errors[0], Exception):
            raise AssertionError(repr(self.errors[0])) from self.errors[0]
        if self.errors:
            raise self.errors[0]
        if self._broken is not None:
            raise self._broken

    def _sit(self, seat: Seat) -> None:
        self._here.seat = seat
        self._seats.append(seat)

    def _pass_on(self, seat: Seat) -> None:
        following = self._next()
        if following is not seat:
            if following is not None:
                following.go.release()
            self._take(seat)
        if self._broken is not None and not self._closing:
            raise self._broken if seat is self._seats[0] else Over

    def _take(self, seat: Seat) -> None:
        if not seat.go.acquire(timeout=SAFETY):
            raise AssertionError(f"{seat.name} has not got the baton for {SAFETY} s; {self.picture()}")

    def _next(self) -> Seat | None:
        """The next seat to run, after advancing time as needed."""
        if not self._ready:
            self._jump()
        if not self._ready and self._seats:
            self._break(DeadlockError(f"nobody can go on: {self.picture()}"))
        return self._ready.popleft() if self._ready else None

    def _jump(self) -> None:
        timers = self._timers
        while timers and not self._ready:
            self.now = max(self.now, timers[0][0]) if self._is_due(timers[0]) else self.now
            while timers and timers[0][0] <= self.now:
                due = heapq.heappop(timers)
                if self._is_due(due):
                    self.wake(due[2])
            while timers and not self._is_due(timers[0]):
                heapq.heappop(timers)

    def _is_due(self, timer: tuple[float, int, Seat, int]) -> bool:
        return timer[2].blocked and timer[2].turn == timer[3]

    def _break(self, why: DeadlockError) -> None:
        self._broken = why
        for seat in self._seats:
            self.wake(seat)

    def picture(self) -> str:
        """The seats, with what each waits for."""
        rows = (f"{seat.name} waits for {seat.waits_for or 'its turn'}" for seat in self._seats)
        return f"at {self.now:.6f} s\n  " + "\n  ".join(rows)
