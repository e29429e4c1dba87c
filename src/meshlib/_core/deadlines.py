"""Deadlines of calls with unusual timeouts.

C-core counts nanoseconds in 64 bits: an infinite timeout, and any above some 292 years, overflows there and ends the
call at once.
"""

import math
from typing import Final

from meshlib._core.status import Outcome, local

__all__ = ["BRIEF", "EXPIRED", "INVALID_TIMEOUT", "LONGEST", "far"]

LONGEST: Final = 1e9
"""Seconds; a longer finite timeout counts as this one, some 31 years."""

BRIEF: Final = 0.001
"""Seconds. grpc rounds deadlines to the millisecond, so an attempt with less than one left expires before a host can
answer."""

EXPIRED: Final = Outcome("DEADLINE_EXCEEDED", "Deadline Exceeded", local=True)
"""Outcome of such an attempt, which is not charged to its host."""

INVALID_TIMEOUT: Final = local(
    "INVALID_ARGUMENT", "timeout=nan is not a number of seconds; pass a number, or None for no deadline"
)


def far(started: float, timeout: float) -> float | None:
    """Deadline of a call if it is not before second :data:`LONGEST` of the clock; None for an infinite timeout. NaN
    stays NaN, which the call rejects."""
    if timeout == math.inf:
        return None
    return started + min(timeout, LONGEST) if timeout > 0 else math.nan
