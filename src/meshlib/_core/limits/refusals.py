"""Rejections by a limit, reported at a limited rate."""

import math
from typing import Final, final

from meshlib._core.events import Refusing

__all__ = ["Refusals"]

PAUSE: Final = 10.0
"""Seconds between two reports."""


@final
class Refusals:
    """The rejections by one limit.

    Args:
        why: the limit, in words.
    """

    __slots__ = ("_told_at", "count", "why")

    def __init__(self, why: str) -> None:
        self.why = why
        self.count = 0
        self._told_at = -math.inf

    def one_more(self, *, now: float) -> Refusing | None:
        """Count a rejection; return an event if a report is due."""
        self.count += 1  # uninterrupted
        if now - self._told_at < PAUSE:  # uninterrupted
            return None
        self._told_at = now  # uninterrupted
        return Refusing(at=now, why=self.why, refused=self.count)
