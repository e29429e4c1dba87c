"""Earliest deadline first: hosts in proportion to their weights, and as evenly spread as that allows.

Every host has a deadline in virtual time, one period (1 / weight) after its last one. The earliest deadline is picked
and the clock jumps to it, so that over any stretch of virtual time a host is picked once a period, to within one pick.
The weight is read as a host is put back, so a weight that changes counts from the host's next pick on.

This is Envoy's ``EdfScheduler``, its random start included, but for one thing. Envoy starts anew at a random point
whenever the membership changes; where that happens every few picks, as in a rolling restart, the shares are right only
on average, as if hosts were drawn by lot. :meth:`Schedule.adopt` carries on instead: a host that stays loses nothing by
what comes and goes beside it.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from typing import Final, final

from meshlib._core.balancing.contracts import Host

__all__ = ["MAX_SKIPPED", "Schedule", "equal_weights"]

MAX_SKIPPED: Final = 429_496_729
"""The random start is so many picks in, less one (Envoy: a tenth of 2**32, for the sake of floating point)."""

NUDGE: Final = 1e-13
"""What Envoy adds to each weight when it starts a schedule in the middle."""


@final
class Schedule:
    """The order in which hosts are picked; O(log n) a pick.

    Args:
        hosts: at least one.
        weight: of a host, more than 0.
        skipped: start where the schedule would be after so many picks.
    """

    __slots__ = ("_heap", "_now", "_turn", "_weight")

    def __init__(self, hosts: Sequence[Host], weight: Callable[[Host], float], *, skipped: int) -> None:
        self._weight = weight
        # (deadline, turn, period, host): among equal deadlines who waits longest goes first; no two turns are equal.
        self._heap: list[tuple[float, int, float, Host]] = []
        self._now = 0.0
        self._turn = len(hosts)
        weights = [weight(host) + NUDGE for host in hosts]
        # Virtual time is what it is after `skipped` picks; all but the last few are found without making them.
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
        """The next host."""
        heap = self._heap
        deadline, _, _, host = heap[0]
        self._now = deadline
        self._turn = turn = self._turn + 1
        period = 1 / self._weight(host)
        heapreplace(heap, (deadline + period, turn, period, host))
        return host

    def adopt(self, previous: "Schedule") -> None:
        """Carries on from the schedule of the membership before, as if there had never been another.

        A host that was in it has as much of its period behind it as it had there, also if its weight has changed; one
        that is new starts wherever this schedule had put it. So the hosts that stay get exactly their shares even where
        weights swing, or others come and go, between any two picks.
        """
        then = previous._now
        # Turns below 0, so that none is that of a new host: who was here first goes first among equals.
        after = previous._turn + 1
        kept = {host: ((deadline - then) / period, turn - after) for deadline, turn, period, host in previous._heap}
        heap = self._heap
        for place, (deadline, turn, period, host) in enumerate(heap):
            left = kept.get(host)
            if left is None:
                heap[place] = (deadline - self._now, turn, period, host)
            else:
                heap[place] = (left[0] * period, left[1], period, host)
        # Virtual time starts at 0 again, or its fractions would one day be too small for a float.
        self._now = 0.0
        heapify(heap)


def equal_weights(hosts: Sequence[Host]) -> bool:
    """Whether no host is to have more than another."""
    first = hosts[0].weight
    return all(host.weight == first for host in hosts)
