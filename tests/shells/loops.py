"""An event loop in virtual time that waits in its world. No socket, no file descriptor."""

import asyncio
from typing import Any, Final, final

from tests.shells.baton import Baton, Seat
from tests.shells.script import GRID

__all__ = ["Loop"]

TURNS: Final = 5000
"""Turns of an event loop in one moment: a loop with more never waits."""


@final
class _Selector:
    """The loop waits in it until its next timer, or until another thread calls."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._called = False
        self._seat: Seat | None = None
        self._moment = 0.0
        self._turns = 0

    def call(self) -> None:
        self._called = True
        if self._seat is not None:
            self._baton.wake(self._seat)

    def select(self, timeout: float | None) -> tuple[()]:
        baton = self._baton
        self._turns = self._turns + 1 if baton.now == self._moment else 0
        self._moment = baton.now
        if self._turns > TURNS:
            raise AssertionError(f"the event loop turns and turns at {baton.now:.6f} s, and time cannot move on")
        if timeout is not None and timeout <= 0:
            baton.others_first()
        elif not self._called:
            self._seat = baton.seat
            baton.block(None if timeout is None else baton.now + timeout, "something to do on its event loop")
            self._seat = None
        self._called = False
        return ()


@final
class Loop(asyncio.BaseEventLoop):
    """An event loop of the world."""

    def __init__(self, baton: Baton) -> None:
        super().__init__()
        self.baton = baton
        self._selector = _Selector(baton)
        self._clock_resolution = GRID / 2  # only what is due now runs, nothing of the next moment

    def time(self) -> float:
        return self.baton.now

    def _process_events(self, events: Any) -> None:
        """No events exist."""

    def _write_to_self(self) -> None:
        self._selector.call()
