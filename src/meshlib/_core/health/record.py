"""Outlier detection state of a host."""

import math
from typing import final

__all__ = ["Record"]


@final
class Record:
    """Outlier detection state of one host: its answers, and its ejections.

    The host itself counts successes: a successful call touches this record only after a failure.
    """

    __slots__ = (
        "broke_at",
        "broke_before",
        "broken",
        "consecutive_5xx",
        "consecutive_gateway_failure",
        "consecutive_local_origin_failure",
        "credit",
        "credited_at",
        "errors",
        "local_errors",
        "others",
        "returned_at",
        "seen",
        "times",
        "unbroken",
    )

    def __init__(self) -> None:
        self.consecutive_5xx = 0
        self.consecutive_gateway_failure = 0
        self.consecutive_local_origin_failure = 0
        self.errors = 0
        """5xx answers; with local-origin errors not split, those too."""
        self.local_errors = 0
        """Local-origin errors, if split."""
        self.others = 0
        """Answers that were neither OK nor 5xx."""
        self.seen = (0, 0, 0, 0)
        """Successes, others, errors and local errors as of the last sweep."""
        self.returned_at = -math.inf
        self.broke_at = -math.inf
        """Monotonic second at which an attempt first reported the last lost connection."""
        self.broke_before = -math.inf
        """The same of the previous loss."""
        self.credit = math.inf
        """Number of further losses believed without confirmation; infinite: the maximum."""
        self.credited_at = 0.0
        self.broken = 0
        """Attempts that the last loss ended."""
        self.unbroken = 0
        """Attempts in flight at :attr:`broke_at` that it has not ended so far."""
        self.times = 0
        """Ejections that count in the length of the next; one less per interval without ejection."""

    @property
    def failed_lately(self) -> bool:
        """Whether there was an error since the last sweep."""
        return (self.errors, self.local_errors) != self.seen[2:]

    def forgive(self) -> None:
        """Reset the consecutive failures."""
        self.consecutive_5xx = self.consecutive_gateway_failure = self.consecutive_local_origin_failure = 0
