"""Envoy's retry budget: the limit of concurrent retries of one channel."""

import math
from typing import Final, Protocol, final

from meshlib._core.attempts.policy import RetryBudget

__all__ = ["LOSS_PATIENCE", "LOSS_POLLS", "LOSS_SHOWS", "Budget"]

LOSS_SHOWS: Final = 0.005
"""Seconds within which the connection of a dead host mostly shows the loss; its calls fail a little earlier. A retry
beyond the budget waits that long, to be judged by whether its host was lost."""

LOSS_PATIENCE: Final = 0.2
"""Seconds until which it is judged again, if no server answered the attempt: on a busy machine the connection shows the
loss later. grpc's details of a lost connection are not proof enough: a server may pass them on."""

LOSS_POLLS: Final = 20
"""Minimum number of times it is judged, however much time has passed: a machine that stalls for longer than
``LOSS_PATIENCE`` has polled once."""


class Holder(Protocol):
    """Holder of a retry slot: an attempt in flight, or a call that waits to start its next attempt."""

    holds: bool
    """Whether it has one. Counted and noted without an interruption, so that no slot is lost to an exception."""


@final
class Budget:
    """Counts the retries of one channel.

    Args:
        policy: None: no limit.
        most: slots at most, whatever the policy allows: the circuit breaker's ``max_retries``.
    """

    __slots__ = ("_policy", "granted", "held", "most")

    def __init__(self, policy: RetryBudget | None, most: float = math.inf) -> None:
        self._policy = policy
        self.most = most
        self.held = 0
        """Slots in use. Above the limit if more calls were active when they were granted, or if some were forced."""
        self.granted = 0
        """Slots granted so far."""

    def limit(self, active: int) -> float:
        """Return the concurrent retries allowed for ``active`` attempts in flight or waiting for a host."""
        policy = self._policy
        if policy is None:
            return math.inf
        # Multiply before dividing: 29 % of 100 is 29, not 28.999999999999996.
        return max(policy.budget_percent * active // 100, policy.min_retry_concurrency)

    def acquire(self, active: int, holder: Holder) -> bool:
        """Take a slot for one retry, if there is one: ``holder`` then has it."""
        return self._take(min(self.limit(active), self.most), holder)

    def force(self, holder: Holder) -> bool:
        """Take a slot beyond the policy's limit, unless the circuit breaker has none left."""
        return self._take(self.most, holder)

    def _take(self, limit: float, holder: Holder) -> bool:
        if self.held < limit:  # uninterrupted
            self.held += 1  # uninterrupted
            self.granted += 1  # uninterrupted
            holder.holds = True  # uninterrupted
            return True
        return False

    @property
    def full(self) -> bool:
        """Whether the circuit breaker has no slot left."""
        return self.held >= self.most

    def release(self, holder: Holder) -> None:
        """Release the slot of ``holder``: the retry has ended."""
        assert holder.holds, "a place of the retry budget was given back twice"
        holder.holds = False  # uninterrupted
        self.held -= 1  # uninterrupted
