"""What is remembered of one host for outlier detection. Written under the channel's lock only."""

import math
from typing import final

__all__ = ["Record"]


@final
class Record:
    """The answers of one host, and its ejections.

    Successes are counted by the host itself: the path of a call that succeeds comes here only after a failure.
    """

    __slots__ = (
        "consecutive_5xx",
        "consecutive_gateway_failure",
        "consecutive_local_origin_failure",
        "errors",
        "local_errors",
        "others",
        "returned_at",
        "seen",
        "times",
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
        self.times = 0
        """Ejections that count for the length of the next; one less after each good interval."""

    def forgive(self) -> None:
        """Nothing counts as in a row any more."""
        self.consecutive_5xx = self.consecutive_gateway_failure = self.consecutive_local_origin_failure = 0
