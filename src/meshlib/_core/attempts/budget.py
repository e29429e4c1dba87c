"""How many retries may be under way in one channel: Envoy's retry budget."""

import math
from typing import Final, Protocol, final

from meshlib._core.attempts.policy import RetryBudget

__all__ = ["LOSS_PATIENCE", "LOSS_POLLS", "LOSS_SHOWS", "Budget"]

LOSS_SHOWS: Final = 0.005
"""Seconds within which the connection of a host that died mostly shows it; the calls it took with it are told a little
earlier. A retry beyond the budget waits that long, to be judged by whether its host was lost."""

LOSS_PATIENCE: Final = 0.2
"""Seconds until which it is judged again, if no server answered the attempt: on a machine that is busy the connection
shows it later. grpc's words for a lost connection are not proof enough: a server may pass them on."""

LOSS_POLLS: Final = 20
"""How often it is judged at least, however much time has passed: a machine that stalls for longer than
``LOSS_PATIENCE`` has looked once."""


class Holder(Protocol):
    """Who takes a place: an attempt, or a call for an attempt that is to follow."""

    holds: bool
    """Whether it has one. Counted and noted without an interruption, so that no place is lost to an exception."""


@final
class Budget:
    """Counts the retries of one channel.

    Args:
        policy: None: no limit.
        most: places at most, whatever the policy allows: the circuit breaker's ``max_retries``.
    """

    __slots__ = ("_policy", "granted", "held", "most")

    def __init__(self, policy: RetryBudget | None, most: float = math.inf) -> None:
        self._policy = policy
        self.most = most
        self.held = 0
        """Places taken now. More than the limit if they were taken while more calls were under way, or beyond it."""
        self.granted = 0
        """Places given so far."""

    def limit(self, active: int) -> float:
        """Retries allowed at once while ``active`` attempts are under way or wait for a host."""
        policy = self._policy
        if policy is None:
            return math.inf
        # Multiplied before it is divided: 29 % of 100 is 29, not 28.999999999999996.
        return max(policy.budget_percent * active // 100, policy.min_retry_concurrency)

    def acquire(self, active: int, holder: Holder) -> bool:
        """Takes a place for one retry, if there is one: ``holder`` has it then."""
        return self._take(min(self.limit(active), self.most), holder)

    def force(self, holder: Holder) -> bool:
        """Takes a place beyond the policy's limit, unless the circuit breaker has none left."""
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
        """Whether the circuit breaker has no place left."""
        return self.held >= self.most

    def release(self, holder: Holder) -> None:
        """Gives the place of ``holder`` back: the retry has ended."""
        assert holder.holds, "a place of the retry budget was given back twice"
        holder.holds = False  # uninterrupted
        self.held -= 1  # uninterrupted
