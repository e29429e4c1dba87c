"""How much a channel may have under way: the knobs."""

from dataclasses import dataclass

from meshlib._core.checks import whole

__all__ = ["CircuitBreaker"]

MOST = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker:
    """What a channel refuses to have under way at once (Envoy ``circuit_breakers.thresholds``).

    A call that goes beyond ends at once as UNAVAILABLE, with ``error.mesh.local`` set: it was never sent, is not
    retried, and no host is charged with it. Where an attempt had failed before, that attempt's error is the call's. The
    limits are those of this channel; other channels and other processes have their own.

    Args:
        max_requests: attempts in flight, over all hosts; 0 to 2**32 - 1.
        max_pending_requests: calls that wait for a host, because none is connected yet or the balancer has them wait.
        max_retries: retries and hedges in back-off or in flight, beside what the :class:`RetryBudget` allows; None:
            only the budget limits them. (In Envoy a budget replaces ``max_retries``; here both hold.)

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
