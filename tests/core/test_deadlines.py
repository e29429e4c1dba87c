"""Timeouts that are infinite, too large, too small or not a number."""

import math

import pytest
from tests.core.channels import Channel
from tests.core.scripted import METHOD, ScriptedCluster, brief, ended, host, plan

from meshlib._core.attempts.policy import RetryPolicy
from meshlib._core.call import Call
from meshlib._core.deadlines import BRIEF, INVALID_TIMEOUT, LONGEST, far
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.status import Outcome
from meshlib._core.view import CallMesh

LATE = Outcome("DEADLINE_EXCEEDED", "Deadline Exceeded", answered=False)


@pytest.mark.parametrize(("timeout", "deadline"), [(math.inf, None), (1e10, 5.0 + LONGEST), (10**400, 5.0 + LONGEST)])
def test_a_timeout_that_is_too_large(timeout: float, deadline: float | None) -> None:
    """Infinite means no deadline; a finite one is clamped to C-core's maximum."""
    assert far(5.0, timeout) == deadline


def test_a_timeout_that_is_no_number_is_refused() -> None:
    """Nothing is sent, and the error describes the invalid value."""
    cluster = ScriptedCluster(host("a"))
    deadline = far(5.0, math.nan)
    call = Call(cluster, plan(RetryPolicy()), METHOD, deadline=deadline)  # type: ignore[arg-type]
    outcome = ended(call.begin(now=5.0))
    assert outcome is INVALID_TIMEOUT
    assert not cluster.in_flight
    assert (CallMesh(call, outcome).local, CallMesh(call, outcome).why) == (True, outcome.details)


def test_the_limit_of_an_attempt_is_cut_as_well() -> None:
    """It is passed to grpc as a timeout."""
    assert plan(RetryPolicy(per_attempt_timeout=1e12)).attempt_limit == LONGEST


@pytest.mark.parametrize(("left", "judged"), [(BRIEF / 2, False), (2 * BRIEF, True), (1.0, True)])
def test_a_deadline_that_passed_before_a_host_could_answer(left: float, judged: bool) -> None:
    """Such a deadline counts no failure for the host, and ejects none."""
    channel = Channel.of("a", outlier_detection=OutlierDetection(consecutive_gateway_failure=1))
    call = channel.call(deadline=1.0 + left)
    assert brief(call.begin(now=1.0)) == ["start 1 a first"]
    call.on_outcome(1, LATE, now=1.0 + left)
    assert channel.host("a").failures == judged
    assert (channel.host("a").ejection is not None) == judged
