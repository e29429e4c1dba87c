"""What outlier detection remembers of a host."""

import math
from typing import final

__all__ = ["Record"]


@final
class Record:
    """What outlier detection remembers of one host: its answers, and its ejections.

    Successes are counted by the host itself: the path of a call that succeeds comes here only after a failure.
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
        """5xx that it answered; with local-origin errors not split, those too."""
        self.local_errors = 0
        """What no server said, where that is split."""
        self.others = 0
        """Answers that were neither OK nor 5xx."""
        self.seen = (0, 0, 0, 0)
        """Successes, others, errors and local errors as of the last sweep."""
        self.returned_at = -math.inf
        self.broke_at = -math.inf
        """Monotonic second at which the first attempt reported the last connection that broke."""
        self.broke_before = -math.inf
        """The same of the one before."""
        self.credit = math.inf
        """How many more losses are believed; infinite: as many as may be."""
        self.credited_at = 0.0
        self.broken = 0
        """Attempts that the last one ended."""
        self.unbroken = 0
        """Attempts in flight at :attr:`broke_at` that it has not ended so far."""
        self.times = 0
        """Ejections that count for the length of the next; one less after each good interval."""

    @property
    def failed_lately(self) -> bool:
        """Whether there was an error since the last sweep."""
        return (self.errors, self.local_errors) != self.seen[2:]

    def forgive(self) -> None:
        """Nothing counts as in a row any more."""
        self.consecutive_5xx = self.consecutive_gateway_failure = self.consecutive_local_origin_failure = 0
