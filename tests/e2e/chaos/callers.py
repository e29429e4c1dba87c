"""What the callers of a chaos run have in common, whether they are threads or the tasks of one loop."""

import time
from random import Random
from typing import Any, Final, Protocol, Self

from tests.e2e.chaos.calls import Record

END_SECONDS: Final = 30.0
"""After which a caller that was told to end is stuck: no deadline of a call is that long."""
APART: Final = 1_000_000
"""Between the numbers of one caller and those of the next."""


class Callers(Protocol):
    """What both shells offer."""

    channel: Any
    records: list[Record]

    def begin(self, rngs: list[Random], **how: Any) -> None:
        """Each caller makes its calls, one after another, from now on."""
        ...

    def end(self) -> None:
        """Let the calls under way end; raises what a caller did not expect."""
        ...

    def late(self) -> float:
        """By how much this process's own clock was late at worst since ``begin``, seconds: the machine's share in the
        lateness of a call."""
        ...

    def connect(self) -> None:
        """Have the channel look its hosts up and connect, if it has not been used."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Metronome:
    """Wakes up at fixed times, and knows how late it was: what a loaded machine does to whoever waits."""

    BEAT = 0.02

    def __init__(self) -> None:
        self.worst = 0.0
        self._due = time.monotonic() + self.BEAT

    def beat(self) -> float:
        """It woke up; returns the seconds until it should again."""
        now = time.monotonic()
        self.worst = max(self.worst, now - self._due)
        self._due = now + self.BEAT
        return self.BEAT


def still_open(records: list[Record]) -> list[str]:
    """The calls that have not ended."""
    return [f"began {time.monotonic() - record.began:.1f} s ago: {record}" for record in records if not record.ended]
