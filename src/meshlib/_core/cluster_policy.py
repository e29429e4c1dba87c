"""Policy of a cluster: how its machine picks hosts, and what it limits."""

from dataclasses import dataclass, field

from meshlib._core.attempts.policy import RetryBudget, RetryThrottling
from meshlib._core.balancing.builtin import BuiltinBalancer
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.limits.policy import CircuitBreaker

__all__ = ["ClusterPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPolicy:
    """Policy of one cluster, resolved and checked.

    Args:
        balancer: picks among the hosts of one priority; :class:`Priorities` picks the priority, too.
        retry_budget: limit of concurrent retries; None: none.
        retry_throttling: limit of retries by their success (gRFC A6); None: none.
        outlier_detection: ejects hosts that fail; None: off.
        circuit_breaker: limits attempts and waiting calls; None: no limit.
    """

    balancer: Balancer = field(default_factory=RoundRobin)
    retry_budget: RetryBudget | None = field(default_factory=RetryBudget)
    retry_throttling: RetryThrottling | None = None
    outlier_detection: OutlierDetection | None = None
    circuit_breaker: CircuitBreaker | None = None

    @property
    def builds_aside(self) -> bool:
        """Whether the balancer is the user's own, and may be slow to make a picker."""
        balancer = self.balancer.balancer if isinstance(self.balancer, Priorities) else self.balancer
        return BuiltinBalancer not in type(balancer).__bases__  # a subclass of an application may be slow
