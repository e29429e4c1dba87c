"""The retry budget, by Envoy's rule."""

import math

import pytest

from meshlib._core.attempts.budget import Budget
from meshlib._core.policy import RetryBudget


class Holder:
    """A holder of a share of the budget."""

    holds = False


@pytest.mark.parametrize(
    ("percent", "least", "active", "limit"),
    [
        (20.0, 3, 0, 3),
        (20.0, 3, 14, 3),
        (20.0, 3, 20, 4),
        (20.0, 3, 100, 20),
        (25.0, 3, 100, 25),
        (20.0, 5, 0, 5),
        (29.0, 0, 100, 29),
        (0.0, 0, 100, 0),
        (100.0, 0, 7, 7),
    ],
)
def test_the_limit(percent: float, least: int, active: int, limit: int) -> None:
    """max(floor(percent of active calls), minimum): Envoy's table; no rounding error costs a share."""
    assert Budget(RetryBudget(budget_percent=percent, min_retry_concurrency=least)).limit(active) == limit


def test_the_floor_is_exact() -> None:
    """Exact for every whole percentage and count."""
    for percent in range(101):
        budget = Budget(RetryBudget(budget_percent=float(percent), min_retry_concurrency=0))
        assert [budget.limit(active) for active in range(200)] == [percent * active // 100 for active in range(200)]


def test_no_policy_is_no_limit() -> None:
    """``None`` means off."""
    budget = Budget(None)
    assert budget.limit(0) == math.inf
    assert all(budget.acquire(0, Holder()) for _ in range(1000))


def test_places_are_taken_and_given_back() -> None:
    """One share each; a falling limit revokes none."""
    budget = Budget(RetryBudget(budget_percent=50.0, min_retry_concurrency=1))
    holders = [Holder() for _ in range(4)]
    assert [budget.acquire(6, holder) for holder in holders] == [True, True, True, False]
    assert [holder.holds for holder in holders] == [True, True, True, False]
    assert budget.held == 3
    assert not budget.acquire(2, holders[3])
    budget.release(holders[0])
    budget.release(holders[1])
    assert not budget.acquire(2, holders[3])
    budget.release(holders[2])
    assert budget.acquire(2, holders[3])
    assert budget.held == 1


def test_a_place_is_given_back_once() -> None:
    """Releasing a share twice is a bug in meshlib."""
    with pytest.raises(AssertionError, match="given back twice"):
        Budget(None).release(Holder())
