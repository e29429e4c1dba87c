"""Polling of all connections of a cluster, and applying of changes."""

from functools import partial
from typing import Final

from meshlib._core.hosts import HostSet
from meshlib._core.serial import WorkSerializer

__all__ = ["sweep", "unchanged"]

SWEPT_AT_ONCE: Final = 64
"""Maximum number of connections whose changes are applied in one step."""


def sweep(hosts: HostSet, serializer: WorkSerializer, *, now: float) -> None:
    """Read the state of every connection, and apply changes in one step per batch: there may be thousands of
    connections."""
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
                continue  # closed meanwhile
            if state is not None and host.differs(state):
                changed.append((host, stamp, state))
        if changed:  # if another thread runs a step, the next sweep finds the same
            serializer.run(partial(hosts.seen, changed, now=now), None, later=False, patient=False)


def unchanged(hosts: HostSet) -> bool:
    """Whether every connection is in its known state."""
    try:
        for host in hosts.seats:
            subchannel = host.subchannel
            if subchannel is not None and host.differs(subchannel.glance()):
                return False
    except ValueError:
        return False  # the channel was closed meanwhile
    return True
