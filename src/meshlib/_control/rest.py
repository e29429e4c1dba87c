"""One timer for all connected and unused channels of an event loop."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Final, Protocol, final

from meshlib._control.timers import TimerHandle, call_at

__all__ = ["RestingChannels", "resting_channels"]

SLACK: Final = 0.25
"""Seconds by which a channel is polled early, so that many share one turn of the loop."""
AT_ONCE: Final = 256
"""Channels polled in one turn: about a millisecond."""


class Resting(Protocol):
    """The driver of a channel at rest."""

    def look(self, early: float) -> None:
        """Handle a timer that is due within ``early`` seconds."""
        ...


@final
class RestingChannels:
    """Poll times of the channels at rest. Every method runs on the loop.

    Args:
        clock: monotonic seconds.
    """

    __slots__ = ("__weakref__", "_at", "_clock", "_due", "_timer")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at: dict[Resting, float] = {}
        self._due = 0.0
        self._timer: TimerHandle | None = None

    def put(self, channel: Resting, at: float) -> None:
        """Poll ``channel`` once, at ``at``."""
        self._at[channel] = at
        if self._timer is None or at < self._due:
            self._arm(at)

    def forget(self, channel: Resting) -> None:
        """Remove ``channel``, no longer at rest."""
        self._at.pop(channel, None)
        if not self._at and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = at
        loop = asyncio.get_running_loop()
        self._timer = call_at(loop, self._clock, at, self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._clock()
        known = list(self._at.items())  # a signal handler may use a channel meanwhile
        due = [channel for channel, at in known if at <= now]
        if due:
            due += [channel for channel, at in known if now < at <= now + SLACK]
        try:
            for channel in due[:AT_ONCE]:
                if self._at.pop(channel, None) is not None:
                    try:
                        channel.look(SLACK)
                    except BaseException:
                        self._at.setdefault(channel, now + SLACK)
                        raise
        finally:  # if one raises, the others are still polled
            if self._at:
                self._arm(min(self._at.values()))


_by_loop: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[RestingChannels]]" = (
    weakref.WeakKeyDictionary()
)
"""Weak both ways: the channels keep the value alive, and its timer would keep the loop alive."""


def resting_channels(clock: Callable[[], float]) -> RestingChannels:
    """Return those of the running loop."""
    loop = asyncio.get_running_loop()
    known = _by_loop.get(loop)
    shared = None if known is None else known()
    if shared is None:
        shared = RestingChannels(clock)
        _by_loop[loop] = weakref.ref(shared)
    return shared
