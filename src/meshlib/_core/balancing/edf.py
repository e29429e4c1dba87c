"""Earliest deadline first scheduling: hosts in proportion to weight, spread as evenly as possible.

Every host has a deadline in virtual time, one period (1 / weight) after its last one. The earliest deadline is picked
and the clock jumps to it. So over any span of virtual time a host is picked once per period, to within one pick. The
weight is read when a host is put back, so a changed weight counts from the host's next pick on.

This is Envoy's ``EdfScheduler`` with its random start, except for one thing. Envoy restarts at a random point whenever
the membership changes. If that happens every few picks, as in a rolling restart, the shares are right only on average,
as in random picks. :meth:`Schedule.adopt` continues instead: membership changes cost the other hosts nothing.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from typing import Final, final

from meshlib._core.balancing.contracts import Host

__all__ = ["MAX_SKIPPED", "Schedule", "equal_weights"]

MAX_SKIPPED: Final = 429_496_729
"""The random start skips fewer picks than this (Envoy: a tenth of 2**32, because of floating point)."""

NUDGE: Final = 1e-13
"""Envoy's addition to each weight when it starts a schedule in the middle."""


@final
class Schedule:
    """Order in which hosts are picked; O(log n) per pick.

    Args:
        hosts: at least one.
        weight: of a host, more than 0.
        skipped: start where the schedule would be after this many picks.
    """

    __slots__ = ("_heap", "_now", "_turn", "_weight")

    def __init__(self, hosts: Sequence[Host], weight: Callable[[Host], float], *, skipped: int) -> None:
        self._weight = weight
        # (deadline, turn, period, host): of equal deadlines the host that waits longest is first; turns are unique.
        self._heap: list[tuple[float, int, float, Host]] = []
        self._now = 0.0
        self._turn = len(hosts)
        weights = [weight(host) + NUDGE for host in hosts]
        # Virtual time as of `skipped` picks; all but the last few are computed rather than made.
        start = skipped / sum(weights)
        made = 0
        for turn, (host, share) in enumerate(zip(hosts, weights, strict=True)):
            picks = int(share * start)
            if picks and picks / share >= start:
                picks -= 1
            made += picks
            self._now = max(self._now, picks / share)
            self._heap.append(((picks + 1) / share, turn, 1 / share, host))
        heapify(self._heap)
        for _ in range(skipped - made):
            self.pick()

    def pick(self) -> Host:
        """Pick the next host."""
        heap = self._heap
        deadline, _, _, host = heap[0]
        self._now = deadline
        self._turn = turn = self._turn + 1
        period = 1 / self._weight(host)
        heapreplace(heap, (deadline + period, turn, period, host))
        return host

    def adopt(self, previous: "Schedule") -> None:
        """Continue the schedule of the previous membership.

        A host that stays keeps the elapsed fraction of its period, even if its weight has changed; a new host keeps its
        position in this schedule. So hosts that stay get exactly their shares, even if weights or the membership change
        between any two picks.
        """
        then = previous._now
        # Turns below 0, so that none equals a new host's, and hosts that stay are first among equals.
        after = previous._turn + 1
        kept = {host: ((deadline - then) / period, turn - after) for deadline, turn, period, host in previous._heap}
        heap = self._heap
        for place, (deadline, turn, period, host) in enumerate(heap):
            left = kept.get(host)
            if left is None:
                heap[place] = (deadline - self._now, turn, period, host)
            else:
                heap[place] = (left[0] * period, left[1], period, host)
        # Virtual time restarts at 0, or a float would eventually lose its fractions.
        self._now = 0.0
        heapify(heap)


def equal_weights(hosts: Sequence[Host]) -> bool:
    """Whether all hosts have the same weight."""
    first = hosts[0].weight
    return all(host.weight == first for host in hosts)
