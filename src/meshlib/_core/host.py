"""The live seat of one endpoint in one channel."""

import math
from typing import Protocol, final

from meshlib._core.connectivity import CONNECTING, NAMES, READY
from meshlib._core.endpoint import Endpoint

__all__ = ["Ejection", "HostEntry", "Record", "Subchannel"]


class Subchannel(Protocol):
    """The connection of a host, as far as the core asks about it: never inside a step, and not on after its Close.

    Raises:
        ValueError: it was closed a moment ago.
    """

    def state(self, connect: bool) -> int:
        """The connectivity now; with ``connect`` an idle one starts to connect."""
        ...

    def glance(self) -> int | None:
        """The same, an idle one starts to connect; None: it cannot be told without waiting for another thread."""
        ...


@final
class Ejection:
    """Why a host is left out, and until when.

    Args:
        why: what it did, in words.
        until: monotonic second; it comes back at the first sweep of outlier detection from then on.
    """

    __slots__ = ("until", "why")

    def __init__(self, why: str, until: float) -> None:
        self.why = why
        self.until = until


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


@final
class HostEntry:
    """One endpoint in one channel: the same object for as long as the endpoint stays, whatever its weight or priority.

    Written in serialized steps only, but for what is counted.
    """

    __slots__ = (
        "__weakref__",
        "dials",
        "ejection",
        "endpoint",
        "failing",
        "failures",
        "in_flight",
        "last_error",
        "lost_at",
        "record",
        "removed",
        "stamp",
        "state",
        "state_since",
        "struck",
        "subchannel",
        "successes",
        "unasked",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.subchannel: Subchannel | None = None
        self.state = CONNECTING
        self.stamp = 0
        """Goes up with each change of the connection: one that was looked at before it has been overtaken."""
        self.state_since = 0.0
        """Monotonic second at which it entered that state."""
        self.last_error = ""
        """Why it cannot be connected, once asked; empty while it is connected."""
        self.failing = False
        """Its connection broke, or could not be made, and has not come back since."""
        self.removed = False
        """Named by the resolver no more: it serves the calls it has and then closes."""
        self.lost_at = -math.inf
        """Monotonic second at which it was last known to have lost its connection."""
        self.unasked = False
        """Nobody has asked for it since it lost its connection: the next call may have it dialled anew."""
        self.dials = 0
        """How often it was dialled anew."""
        self.in_flight = 0
        self.successes = 0
        self.failures = 0
        self.ejection: Ejection | None = None
        """Why outlier detection leaves it out; None: it does not."""
        self.struck = False
        """Failures in a row are counted against it: the next success has something to take back."""
        self.record = Record()

    @property
    def weight(self) -> float:
        """Its share within its priority."""
        return self.endpoint.weight

    @property
    def totals(self) -> tuple[int, int, int, int]:
        """What came of its attempts so far: successes, other answers, errors, local errors."""
        record = self.record
        return self.successes, record.others, record.errors, record.local_errors

    @property
    def healthy(self) -> bool:
        """Whether it is connected and not ejected."""
        return self.state == READY and self.ejection is None

    def __repr__(self) -> str:
        left = " removed" if self.removed else " ejected" if self.ejection else ""
        return f"<Host {self.endpoint.address} {NAMES[self.state]}{left} in_flight={self.in_flight}>"
