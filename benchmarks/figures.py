"""Statistics of measurements: percentiles, and ratios with their intervals."""

import statistics
from collections.abc import Sequence
from random import Random

__all__ = ["interval", "percentile"]

RESAMPLES = 2000
CONFIDENCE = 0.95


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of the sorted ``values`` do not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of ratios and its 95 % interval by resampling (bootstrap, percentiles; seed 0)."""
    rng = Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    outside = (1 - CONFIDENCE) / 2
    return statistics.median(ratios), percentile(medians, outside), percentile(medians, 1 - outside)
