"""The policy of a cluster: which balancers build their pickers off the control plane."""

import pytest

from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.cluster_policy import ClusterPolicy


class Slow(RoundRobin):  # type: ignore[misc]
    """A balancer of an application."""


@pytest.mark.parametrize(
    ("balancer", "aside"),
    [
        (RoundRobin(), False),
        (Priorities(balancer=RoundRobin()), False),
        (Slow(), True),
        (Priorities(balancer=Slow()), True),
    ],
)
def test_a_balancer_of_the_application_builds_aside(balancer: Balancer, aside: bool) -> None:
    """It may be slow, also within priorities."""
    assert ClusterPolicy(balancer=balancer).builds_aside is aside
