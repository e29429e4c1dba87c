"""Lost connections, as the attempts that they ended show them.

A look at a connection misses a loss when the connection is back before the next look: a load balancer that cuts it
without GOAWAY and goes on listening. C-core's words for a lost connection are no proof, since a server may pass on the
words of a failure of its own, for each of its calls. So they are believed of a host

- if most attempts that were in flight there ended with them: a lost connection ends every attempt on it, but for those
  that C-core had not written yet and sends again by itself;
- otherwise a limited number of times.
"""

from typing import Final

from meshlib._core.host import HostEntry
from meshlib._core.status import Outcome

__all__ = ["believed", "broke", "says_lost"]

LONE: Final = 1.0
"""Seconds since the loss before, from which an attempt that was alone on its host counts as most of them."""

BURST: Final = 20.0
"""Losses of one host that are believed in a row without most attempts saying so."""

RATE: Final = 1.0
"""How many more each second."""


def says_lost(outcome: Outcome) -> bool:
    """Whether an attempt ended with C-core's words for a lost connection."""
    return outcome.code == "UNAVAILABLE" and not outcome.answered and not outcome.refused and not outcome.local


def broke(host: HostEntry, start: float, now: float) -> bool:
    """An attempt on ``host`` that began at ``start`` ended with the words of a lost connection; its place is free.

    Returns:
        Whether that makes a loss known which was not known before: :attr:`Host.lost_at` is set.
    """
    record = host.record
    if start > record.broke_at:
        record.broke_before, record.broke_at = record.broke_at, now
        record.broken = 0
        record.unbroken = host.in_flight
    elif record.unbroken:
        record.unbroken -= 1
    record.broken += 1
    if host.lost_at >= start or record.broken <= record.unbroken:
        return False
    if record.broken == 1 and now - record.broke_before < LONE:
        return False
    host.lost_at = record.broke_at
    return True


def believed(host: HostEntry, since: float, now: float) -> bool:
    """Whether the words of an attempt on ``host`` that began at ``since`` are believed although most others do not
    confirm them; :attr:`Host.lost_at` is set, for the others that ended with it."""
    record = host.record
    if record.broke_at < since:
        return False
    record.credit = min(BURST, record.credit + (now - record.credited_at) * RATE)
    record.credited_at = now
    if record.credit < 1:
        return False
    record.credit -= 1
    host.lost_at = record.broke_at
    return True
