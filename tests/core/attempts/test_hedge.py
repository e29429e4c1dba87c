"""When the next copy of a hedged call is due (gRFC A6)."""

import math

import pytest

from meshlib._core.attempts.hedge import Hedges
from meshlib._core.policy import HedgingPolicy
from meshlib._core.status import Outcome


def hedges(copies: int = 3) -> Hedges:
    """The hedges of a call whose original was sent at 0."""
    made = Hedges(HedgingPolicy(max_attempts=copies, hedging_delay=1.0))
    made.sent(now=0.0)
    return made


def test_by_the_delay_until_all_are_sent() -> None:
    """Each copy is due one delay after the previous one."""
    copies = hedges()
    dues = []
    for _ in range(2):
        dues.append(copies.due)
        copies.take()
        copies.sent(now=dues[-1])
    assert [*dues, copies.due] == [1.0, 2.0, math.inf]


@pytest.mark.parametrize(("pushback", "due"), [(None, 0.5), (0.0, 0.5), (2.0, 2.5), (-1.0, math.inf)])
def test_after_a_failure(pushback: float | None, due: float) -> None:
    """At once, after the pushback, or never again."""
    copies = hedges()
    assert copies.failed(Outcome("UNAVAILABLE", pushback=pushback), now=0.5)
    assert copies.due == due


def test_a_pushback_after_the_last_copy() -> None:
    """It adds no copy."""
    copies = hedges(2)
    copies.take()
    copies.sent(now=1.0)
    assert copies.failed(Outcome("UNAVAILABLE", pushback=2.0), now=1.5)
    assert copies.due == math.inf
    assert copies.why == "all 2 hedged attempts failed"


def test_a_code_that_is_fatal() -> None:
    """A fatal code ends the copies."""
    assert not hedges().failed(Outcome("NOT_FOUND"), now=0.5)


def test_stopped() -> None:
    """No input restarts stopped copies."""
    copies = hedges()
    copies.stop("why")
    assert copies.failed(Outcome("UNAVAILABLE", pushback=1.0), now=0.5)
    copies.sent(now=0.6)
    assert (copies.due, copies.why) == (math.inf, "why")
