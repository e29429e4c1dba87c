"""Effect of an attempt's outcome on its host."""

from tests.core.scripted import UNAVAILABLE, host

from meshlib._core.health.judge import OutcomeJudge
from meshlib._core.hosts import HostSet
from meshlib._core.status import OK


def test_without_outlier_detection_nothing_is_ejected() -> None:
    """Neither a failure nor a success has an effect, even on a host whose failures were counted before."""
    judge = OutcomeJudge(HostSet(), None, picker=lambda: None, alone=lambda: False)
    entry = host("a")
    entry.struck = True
    for outcome in (UNAVAILABLE, OK):
        assert judge.reported(entry, outcome, 0.1, None, 1.0) == ""
    assert not entry.ejected
