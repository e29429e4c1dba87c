"""How many retries may be under way in one channel: Envoy's retry budget."""

from meshlib._core.policy import RetryBudget

__all__ = ["Budget"]


class Budget:
    """Counts the retries of one channel. Every method runs under the channel's lock."""

    __slots__ = ("_policy", "held", "refused")

    def __init__(self, policy: RetryBudget | None) -> None:
        self._policy = policy
        self.held = 0
        self.refused = 0

    def limit(self, active: int) -> float:
        """Retries allowed at once while ``active`` calls are under way."""
        policy = self._policy
        if policy is None:
            return float("inf")
        return max(int(policy.budget_percent / 100 * active), policy.min_retry_concurrency)

    def acquire(self, active: int) -> bool:
        """Takes a place for one retry, if there is one."""
        if self.held >= self.limit(active):
            return False
        self.held += 1
        return True

    def release(self) -> None:
        """Gives a place back: the retry has ended."""
        self.held -= 1
