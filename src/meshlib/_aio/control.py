"""Process-wide state of the asyncio shell: one set of resolutions per event loop, and its handling of forks.

C-core's objects and event loops do not survive a fork reliably. So all state belongs to one :class:`Process` behind
one global. The child parks the inherited one, which is never again used, closed or collected, and makes a new one;
each channel compares identity at each call.
"""

import asyncio
import os
import weakref
from collections.abc import Collection
from typing import Protocol, final

from meshlib._aio.clock import CLOCK, Clock
from meshlib._control.shared import Resolutions
from meshlib._control.timers import clock_of
from meshlib._core.sharing import Sharing

__all__ = ["Process", "current"]


class LoopRuntime(Protocol):
    """A channel in use on an event loop."""

    @property
    def calls(self) -> Collection[object]:
        """Its calls in flight."""
        ...


@final
class Process:
    """The state of meshlib on the event loops of one process.

    Args:
        clock: locks and loops.
        sharing: which of its subchannels share a connection; None: for a process that has inherited none.
    """

    def __init__(self, clock: Clock = CLOCK, sharing: Sharing | None = None) -> None:
        self.clock = clock
        self.sharing = Sharing() if sharing is None else sharing
        self.runtimes: weakref.WeakSet[LoopRuntime] = weakref.WeakSet()
        self._resolutions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Resolutions] = (
            weakref.WeakKeyDictionary()
        )

    def resolutions(self, loop: asyncio.AbstractEventLoop) -> Resolutions:
        """The resolutions that the channels of ``loop`` share."""
        known = self._resolutions.get(loop)
        if known is None:
            known = self._resolutions[loop] = Resolutions(clock=clock_of(loop), rng=self.clock.rng())
        return known

    @property
    def loops(self) -> "list[tuple[asyncio.AbstractEventLoop, Resolutions]]":
        """The loops that channels have been used on, with their resolutions."""
        return list(self._resolutions.items())

    def inherited(self) -> list[object]:
        """The objects that a child must not release."""
        runtimes = list(self.runtimes)
        return [self, runtimes, [list(runtime.calls) for runtime in runtimes], list(self._resolutions.items())]


_process = Process()
_parked: list[object] = []


def current() -> Process:
    """The state of this process."""
    return _process


def _after_fork_in_child() -> None:
    global _process
    if _process.runtimes:
        _parked.append(_process.inherited())
    _process = Process(_process.clock, _process.sharing.child())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
