"""Reading the state of every connection of a cluster, and applying what has changed."""

from functools import partial
from typing import Final

from meshlib._core.hosts import HostSet
from meshlib._core.serial import WorkSerializer

__all__ = ["sweep", "unchanged"]

SWEPT_AT_ONCE: Final = 64
"""Connections whose changes are applied in one step, at most."""


def sweep(hosts: HostSet, serializer: WorkSerializer, *, now: float) -> None:
    """Reads the state of every connection, and applies changes in one step for each batch, since there may be thousands
    of connections."""
    seats = hosts.seats
    for first in range(0, len(seats), SWEPT_AT_ONCE):
        changed = []
        for host in seats[first : first + SWEPT_AT_ONCE]:
            subchannel = host.subchannel
            if subchannel is None or host.removed:
                continue
            stamp = host.stamp
            try:
                state = subchannel.glance()
            except ValueError:
                continue  # closed this moment
            if state is not None and state != host.state:
                changed.append((host, stamp, state))
        if changed:  # if another thread is inside a step, the next sweep finds the same
            serializer.run(partial(hosts.seen, changed, now=now), None, later=False, patient=False)


def unchanged(hosts: HostSet) -> bool:
    """Whether every connection is in the state that is known of it."""
    try:
        for host in hosts.seats:
            subchannel = host.subchannel
            state = None if subchannel is None else subchannel.glance()
            if state is not None and state != host.state:
                return False
    except ValueError:
        return False  # the channel was closed this moment
    return True
