"""The spread of calls over priorities, against Envoy's rules written down one by one, in fractions."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.core.scripted import METHOD, Draws, ScriptedCluster, host, plan

from meshlib._core.balancing.priorities import Spread, loads
from meshlib._core.call import Call

COUNTS = st.lists(
    st.integers(0, 12).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))), min_size=1, max_size=4
)
FACTORS = st.sampled_from([1.0, 1.15, 1.4, 2.0, 100.0])
THRESHOLDS = st.sampled_from([0, 1, 30, 50, 75, 100])


def few(healthy: int, total: int, threshold: float) -> bool:
    """Whether fewer than ``threshold`` percent of a tier are healthy; an empty tier has none."""
    return (Fraction(100 * healthy, total) if total else 0) < threshold


@given(counts=COUNTS, factor=FACTORS, threshold=THRESHOLDS)
def test_the_loads(counts: list[tuple[int, int]], factor: float, threshold: float) -> None:
    """Health with overprovisioning, spill-over from tier to tier, panic, and total panic."""
    health = [min(100, math.floor(Fraction(str(factor)) * 100 * up / total)) if total else 0 for up, total in counts]
    available = min(100, sum(health))
    panic = [available < 100 and few(up, total, threshold) for up, total in counts]
    percents = []
    if all(panic):
        everyone = sum(total for _, total in counts)
        percents = [100 * total // everyone if everyone else 0 for _, total in counts]
        takers = [tier for tier, (_, total) in enumerate(counts) if total]
    else:
        for one in health:
            share = math.floor(Fraction(100 * one, available)) if available else 0
            percents.append(min(share, 100 - sum(percents)))
        takers = [tier for tier, one in enumerate(health) if one]
    if takers:
        percents[takers[0]] += 100 - sum(percents)
    found = loads(counts, factor=factor, threshold=threshold)
    assert [load.percent for load in found] == percents
    assert [load.panic for load in found] == panic
    assert sum(percents) in (0, 100)


@given(counts=COUNTS, threshold=THRESHOLDS)
def test_the_strict_loads(counts: list[tuple[int, int]], threshold: float) -> None:
    """The first tier with a healthy host gets every call, else the first that panics; no other tier panics."""
    found = loads(counts, factor=None, threshold=threshold)
    up = [tier for tier, (healthy, _) in enumerate(counts) if healthy]
    last_resort = [tier for tier, (_, total) in enumerate(counts) if total and threshold > 0]
    chosen = up or last_resort
    for tier, load in enumerate(found):
        assert load.percent == (100 if tier in chosen[:1] else 0)
        assert load.panic == (tier in chosen[:1] and few(*counts[tier], threshold))


class Always:
    """A picker of one host."""

    def __init__(self, name: str) -> None:
        self.host = host(name)

    def pick(self, call: object, *, now: float) -> Any:
        return self.host


@given(bounds=st.lists(st.integers(1, 99), max_size=3, unique=True))
def test_each_tier_has_its_percentage(bounds: list[int]) -> None:
    """Each of the hundred possible draws leads to the tier that owns it, in order."""
    edges = [0, *sorted(bounds), 100]
    percents = [after - before for before, after in pairwise(edges)]
    pickers = [Always(str(tier)) for tier in range(len(percents))]
    draws = Draws(0.0)
    spread = Spread(list(zip(percents, pickers, strict=True)), draws)  # type: ignore[arg-type]
    call = Call(ScriptedCluster(None), plan(), METHOD)  # type: ignore[arg-type]
    picked = []
    for draw in range(100):
        draws.fraction = (draw + 0.5) / 100
        chosen: Any = spread.pick(call, now=0.0)
        picked.append(int(chosen.endpoint.address))
    assert picked == [tier for tier, percent in enumerate(percents) for _ in range(percent)]
