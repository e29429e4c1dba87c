"""Circuit breaker configuration."""

from dataclasses import dataclass

from meshlib._core.checks import whole

__all__ = ["CircuitBreaker"]

MOST = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker:
    """Circuit breaker: limits of attempts, waiting calls and retries (Envoy ``circuit_breakers.thresholds``).

    A call above a limit fails at once as UNAVAILABLE with ``error.mesh.local`` set: it was never sent, is not retried,
    and counts against no host. If an earlier attempt failed, the call ends with that attempt's error. The limits apply
    to this channel only; other channels and processes have their own.

    Args:
        max_requests: attempts in flight, over all hosts; 0 to 2**32 - 1.
        max_pending_requests: calls that wait for a host, because none is connected or the balancer queues them.
        max_retries: retries and hedges in backoff or in flight; None: only the :class:`RetryBudget` limits them. (In
            Envoy a budget replaces ``max_retries``; here both apply.)

    Raises:
        ConfigError: a field is out of its range.
    """

    max_requests: int = 1024
    max_pending_requests: int = 1024
    max_retries: int | None = None

    def __post_init__(self) -> None:
        whole("max_requests", self.max_requests, 0, MOST)
        whole("max_pending_requests", self.max_pending_requests, 0, MOST)
        if self.max_retries is not None:
            whole("max_retries", self.max_retries, 0, MOST)
