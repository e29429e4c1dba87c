"""Detection of lost connections from the attempts that they ended.

A poll misses a loss if the connection recovers before the next poll: a load balancer closes it without GOAWAY and keeps
listening. C-core's error for a lost connection does not prove it, since a server may pass on such an error from its own
upstream, for each of its calls. So for each host the error is believed

- if most attempts in flight ended with it: a lost connection ends every attempt on it, except those that C-core had not
  written yet and resends by itself;
- otherwise a limited number of times.
"""

from typing import Final

from meshlib._core.host import HostEntry
from meshlib._core.status import Outcome

__all__ = ["believed", "broke", "says_lost"]

LONE: Final = 1.0
"""Seconds since the previous loss after which a single attempt in flight counts as most of them."""

BURST: Final = 20.0
"""Maximum consecutive losses of one host that are believed without confirmation by most attempts."""

RATE: Final = 1.0
"""Further ones per second."""


def says_lost(outcome: Outcome) -> bool:
    """Whether an attempt ended with C-core's error for a lost connection."""
    return outcome.code == "UNAVAILABLE" and not outcome.answered and not outcome.refused and not outcome.local


def broke(host: HostEntry, start: float, now: float) -> bool:
    """Count an attempt on ``host``, begun at ``start`` and no longer in flight, that reports a lost connection.

    Returns:
        Whether this reveals a new loss: then :attr:`HostEntry.lost_at` is set.
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
    """Whether to believe an attempt on ``host``, begun at ``since``, that most others do not confirm. If so, sets
    :attr:`HostEntry.lost_at`, for other attempts that it ended."""
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
