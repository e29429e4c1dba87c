"""Common parts of the callers of a chaos run, threads or tasks of one loop."""

import time
from random import Random
from typing import Any, Final, Protocol, Self

from tests.e2e.chaos.calls import Record

END_SECONDS: Final = 30.0
"""Seconds after which an ending caller is stuck: no deadline of a call is that long."""
APART: Final = 1_000_000
"""Distance between the numbers of one caller and those of the next."""


class Callers(Protocol):
    """Interface of both shells."""

    channel: Any
    records: list[Record]

    def begin(self, rngs: list[Random], **how: Any) -> None:
        """Start the callers; each makes its calls, one after another."""
        ...

    def end(self) -> None:
        """Let the calls in flight end; raises errors that a caller did not expect."""
        ...

    def late(self) -> float:
        """Maximum lateness of this process's own clock since ``begin``, in seconds: the machine's share in the lateness
        of a call."""
        ...

    def connect(self) -> None:
        """Make an unused channel look its hosts up and connect."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Metronome:
    """Wakes up at fixed times, and measures how late: the delay that a loaded machine adds to every wait."""

    BEAT = 0.02

    def __init__(self) -> None:
        self.worst = 0.0
        self._due = time.monotonic() + self.BEAT

    def beat(self) -> float:
        """Record a wake-up; returns the seconds until the next."""
        now = time.monotonic()
        self.worst = max(self.worst, now - self._due)
        self._due = now + self.BEAT
        return self.BEAT


def still_open(records: list[Record]) -> list[str]:
    """The calls that have not ended."""
    return [f"began {time.monotonic() - record.began:.1f} s ago: {record}" for record in records if not record.ended]
