"""How often a limit has refused something, told without flooding whoever listens."""

import math
from typing import Final, final

from meshlib._core.events import Refusing

__all__ = ["Refusals"]

PAUSE: Final = 10.0
"""Seconds between two tellings."""


@final
class Refusals:
    """What one limit has refused.

    Args:
        why: which limit, in words.
    """

    __slots__ = ("_told_at", "count", "why")

    def __init__(self, why: str) -> None:
        self.why = why
        self.count = 0
        self._told_at = -math.inf

    def one_more(self, *, now: float) -> Refusing | None:
        """It refuses one more; what to tell, if it is time to."""
        self.count += 1  # uninterrupted
        if now - self._told_at < PAUSE:  # uninterrupted
            return None
        self._told_at = now  # uninterrupted
        return Refusing(at=now, why=self.why, refused=self.count)
