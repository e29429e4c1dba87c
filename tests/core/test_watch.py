"""When connections are looked at."""

import math

import pytest

from meshlib._core.watch import QUIET, SWEEP, WATCH_FIRST, WATCH_LAST, Watch


def test_ten_times_a_second_while_nobody_waits() -> None:
    """From the first connection on, and not at all without one."""
    watch = Watch()
    assert watch.at == math.inf
    watch.settle(seats=True, now=5.0)
    assert watch.at == 5.0 + SWEEP
    watch.settle(seats=True, now=5.05)
    assert watch.at == 5.0 + SWEEP
    watch.looked(1, waiting=False, quiet=False, now=6.0)
    assert watch.at == 6.0 + SWEEP
    watch.settle(seats=False, now=6.0)
    assert watch.at == math.inf


def test_often_while_somebody_waits() -> None:
    """From half a millisecond, doubling, to 20 ms."""
    assert (WATCH_FIRST, WATCH_LAST, SWEEP) == (0.0005, 0.02, 0.1)
    watch = Watch()
    watch.hurry(now=0.0)
    looks = []
    for _ in range(8):
        looks.append(watch.at)
        watch.looked(1, waiting=True, quiet=False, now=watch.at)
    gaps = [round((after - before) * 1000, 6) for before, after in zip([0.0, *looks], looks, strict=False)]
    assert gaps == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]


def test_hurry_never_puts_a_look_off() -> None:
    """Somebody new who begins to wait every moment does not keep the others waiting."""
    watch = Watch()
    watch.hurry(now=0.0)
    watch.hurry(now=0.0004)
    assert watch.at == WATCH_FIRST


def test_less_often_while_nothing_happens() -> None:
    """Once a second in the end; one call, or one host that is not connected, and it is ten times again."""
    watch = Watch()
    watch.hurry(now=0.0)
    gaps = []
    for quiet in (True, True, True, True, True, True, False):
        now = watch.at
        watch.looked(1, waiting=False, quiet=quiet, now=now)
        gaps.append(watch.at - now)
    assert gaps == pytest.approx([SWEEP, 0.2, 0.4, 0.8, QUIET, QUIET, SWEEP])


@pytest.mark.parametrize(
    ("seats", "waiting", "gap"),
    [(100, False, SWEEP), (1000, False, SWEEP), (10_000, False, 1.0), (100, True, 0.001), (10_000, True, 0.1)],
)
def test_many_connections_are_looked_at_less_often(seats: int, waiting: bool, gap: float) -> None:
    """A look at each takes a microsecond: a hundredth of a processor goes into it, a tenth while a call waits."""
    watch = Watch()
    watch.hurry(now=0.0)
    watch.looked(seats, waiting=waiting, quiet=False, now=1.0)
    assert watch.at == pytest.approx(1.0 + gap)
