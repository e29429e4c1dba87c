"""Rebuilding of a cluster's picker after a change of its hosts."""

import math
from random import Random
from typing import final

from meshlib._core.balancing.picker_snapshot import PickerSnapshot
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.cluster_steps import ClusterSteps
from meshlib._core.hosts import HostSet

__all__ = ["PickerBuilder"]


@final
class PickerBuilder:
    """Builds pickers for the hosts of a cluster.

    Args:
        priorities: the balancer, and the configuration of priorities.
        hosts: of the cluster.
        rng: for the pickers.
        steps: of the cluster.
    """

    __slots__ = ("_hosts", "_priorities", "_rng", "_steps", "previous", "stale_at", "version")

    def __init__(self, priorities: Priorities, hosts: HostSet, rng: Random, steps: ClusterSteps) -> None:
        self._priorities = priorities
        self._hosts = hosts
        self._rng = rng
        self._steps = steps
        self.previous: PickerSnapshot | None = None
        """The last picker, whose state the next one takes over."""
        self.version = 0
        """Version of the hosts that the current picker was built for."""
        self.stale_at = math.inf
        """Monotonic second at which the current picker must be rebuilt."""

    def build(self, *, now: float) -> PickerSnapshot | None:
        """Build a picker for the current hosts; None: none of them can be picked. Runs the balancer's code, so call it
        outside of steps."""
        tiers = self._hosts.tiers(self._priorities, first=self.previous is None)
        if not tiers:
            return None
        steps = self._steps
        return PickerSnapshot(
            self._priorities.balancer, tiers, rng=self._rng, events=steps.events, now=now, run=steps.run
        )

    def adopt(self, picker: PickerSnapshot, *, now: float) -> None:
        """Let ``picker`` take over the state of the previous one. In a step."""
        previous = self.previous  # read once: the channel may close meanwhile
        if previous is not None:
            picker.adopt(previous, now=now)
        self.previous = picker

    def built(self, version: int) -> None:
        """Record that the picker for this version of the hosts is in use. In a step."""
        self.version = version
        self.stale_at = math.inf
