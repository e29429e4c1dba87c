"""Replacements for ``threading`` in a world: a lock, an event, a thread. None of them waits in real time."""

from collections import deque
from collections.abc import Callable
from typing import final

from tests.shells.baton import Baton, Seat, Spawned

__all__ = ["Event", "Lock", "Thread"]


@final
class Lock:
    """A lock of the world, not re-entrant."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._owner: Seat | None = None
        self._waiting: deque[Seat] = deque()

    def __enter__(self) -> bool:
        seat = self._baton.seat
        while self._owner is not None:
            if self._owner is seat:
                raise AssertionError(f"{seat.name} takes a lock that it holds")
            self._waiting.append(seat)
            self._baton.block(None, f"a lock of {self._owner.name}")
        self._owner = seat
        seat.holds += 1
        return True

    def __exit__(self, *_: object) -> None:
        self._baton.seat.holds -= 1
        self._owner = None
        if self._waiting:
            self._baton.wake(self._waiting.popleft())


@final
class Event:
    """A flag of the world."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._set = False
        self._waiting: list[Seat] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for seat in self._waiting:
            self._baton.wake(seat)

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set and (timeout is None or timeout > 0):
            seat = self._baton.seat
            self._waiting.append(seat)
            self._baton.block(None if timeout is None else self._baton.now + timeout, "an event")
            self._waiting.remove(seat)
        return self._set


@final
class Thread(Spawned):
    """A thread of the world."""

    def __init__(self, baton: Baton, target: Callable[[], object], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.seat = Seat(name)
        self._baton = baton
        self._work = target
        self._done = Event(baton)

    def run(self) -> None:
        self._baton.run(self.seat, self._finish)

    def _finish(self) -> None:
        try:
            self._work()
        finally:
            self._done.set()

    def join(self, timeout: float | None = None) -> None:
        self._done.wait(timeout)
