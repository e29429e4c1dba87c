"""The schedule of connectivity polls."""

import math
from itertools import pairwise

import pytest

from meshlib._core.connectivity_poll import GROWTH, LONG, POLL_FIRST, POLL_LAST, QUIET, SWEEP, ConnectivityPoll


def test_ten_times_a_second_while_nobody_waits() -> None:
    """Polls run from the first connection on, and not at all without one."""
    watch = ConnectivityPoll()
    assert watch.at == math.inf
    watch.settle(seats=True, now=5.0)
    assert watch.at == 5.0 + SWEEP
    watch.settle(seats=True, now=5.05)
    assert watch.at == 5.0 + SWEEP
    watch.looked(1, waiting=False, quiet=False, now=6.0)
    assert watch.at == 6.0 + SWEEP
    watch.settle(seats=False, now=6.0)
    assert watch.at == math.inf


@pytest.mark.parametrize("who", ["waiting", "watched"])
def test_often_while_somebody_waits(who: str) -> None:
    """Polls run after 0.3 ms, then half as long again each time, up to 20 ms: for a call, or a readiness callback."""
    assert (POLL_FIRST, GROWTH, POLL_LAST, SWEEP) == (0.0003, 1.5, 0.02, 0.1)
    watch = ConnectivityPoll()
    watch.hurry(now=0.0)
    looks = []
    for _ in range(14):
        looks.append(watch.at)
        watch.looked(1, waiting=who == "waiting", watched=who == "watched", quiet=True, now=watch.at)
    gaps = [after - before for before, after in zip([0.0, *looks], looks, strict=False)]
    assert gaps == pytest.approx([min(POLL_FIRST * GROWTH**n, POLL_LAST) for n in range(14)])
    assert gaps[-1] == pytest.approx(POLL_LAST)


def test_who_is_told_of_changes_for_ever_is_not_in_a_hurry_for_ever() -> None:
    """A subscriber without a deadline slows down; a call does not."""
    watch = ConnectivityPoll()
    watch.hurry(now=0.0)
    watch.looked(1, waiting=False, watched=True, quiet=True, now=LONG)
    assert watch.at == LONG + SWEEP
    watch.hurry(now=LONG)
    watch.looked(1, waiting=False, watched=True, quiet=True, now=LONG)
    assert watch.at < LONG + POLL_LAST


def test_hurry_never_puts_a_look_off() -> None:
    """A steady stream of new waiters does not postpone the polls of the others."""
    watch = ConnectivityPoll()
    watch.hurry(now=0.0)
    watch.hurry(now=0.0004)
    assert watch.at == POLL_FIRST


def test_less_often_while_nothing_happens() -> None:
    """Polls slow to one a second; one call, or one host that is not connected, restores ten a second."""
    watch = ConnectivityPoll()
    watch.hurry(now=0.0)
    gaps = []
    for quiet in (True, True, True, True, True, True, False):
        now = watch.at
        watch.looked(1, waiting=False, quiet=quiet, now=now)
        gaps.append(watch.at - now)
    assert gaps == pytest.approx([SWEEP, 0.2, 0.4, 0.8, QUIET, QUIET, SWEEP])


def test_it_rests_once_looks_are_rare() -> None:
    """Then many channels may share a timer."""
    watch = ConnectivityPoll()
    watch.hurry(now=0.0)
    rests = []
    for quiet in (True, True, True, True, True, False):
        watch.looked(1, waiting=False, quiet=quiet, now=watch.at)
        rests.append(watch.resting)
    assert rests == [False, False, False, False, True, False]


@pytest.mark.parametrize(
    ("seats", "waiting", "gap"),
    [(100, False, SWEEP), (1000, False, SWEEP), (10_000, False, 1.0), (100, True, 0.001), (10_000, True, 0.1)],
)
def test_many_connections_are_looked_at_less_often(seats: int, waiting: bool, gap: float) -> None:
    """A poll takes a microsecond per host: polls take 1 % of a CPU core, 10 % while a call waits."""
    watch = ConnectivityPoll()
    watch.hurry(now=0.0)
    watch.looked(seats, waiting=waiting, quiet=False, now=1.0)
    assert watch.at == pytest.approx(1.0 + gap)


def test_what_was_dialled_together_is_seen_soon() -> None:
    """Once the waiting call has a host, the others are polled in growing steps, not only a sweep later."""
    watch = ConnectivityPoll()
    watch.hurry(now=0.0)
    times = []
    for _ in range(30):
        times.append(watch.at)
        watch.looked(2, waiting=False, quiet=False, dialling=True, now=watch.at)
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps == pytest.approx(sorted(gaps))
    assert gaps[0] < 0.001
    assert gaps[-1] == pytest.approx(SWEEP)
