"""Connectivity states of gRPC, by C-core's numbers, and their aggregation."""

from collections.abc import Iterable
from typing import Final

__all__ = ["CONNECTING", "IDLE", "NAMES", "READY", "SHUTDOWN", "TRANSIENT_FAILURE", "aggregate"]

IDLE: Final = 0
CONNECTING: Final = 1
READY: Final = 2
TRANSIENT_FAILURE: Final = 3
SHUTDOWN: Final = 4

NAMES: Final = ("IDLE", "CONNECTING", "READY", "TRANSIENT_FAILURE", "SHUTDOWN")


def aggregate(states: Iterable[int]) -> int:
    """Aggregate states: READY if any is, else CONNECTING if any may still become ready, else TRANSIENT_FAILURE.

    The rule of gRPC's round_robin (doc/load-balancing.md), with IDLE counted as CONNECTING since hosts always connect.
    """
    best = TRANSIENT_FAILURE
    for state in states:
        if state == READY:
            return READY
        if state in (IDLE, CONNECTING):
            best = CONNECTING
    return best
