"""The live seat of one endpoint in one channel."""

import math
from typing import Protocol, final

from meshlib._core.connectivity import CONNECTING, NAMES, READY
from meshlib._core.endpoint import Endpoint

__all__ = ["Host", "Subchannel"]


class Subchannel(Protocol):
    """The connection of a host, as far as the core asks about it: under the channel's lock, never after its Close."""

    def state(self, connect: bool) -> int:
        """The connectivity now, without blocking; with ``connect`` an idle one starts to connect."""
        ...


@final
class Host:
    """One endpoint in one channel: the same object for as long as the endpoint stays, whatever its weight or priority.

    Written under the channel's lock only.
    """

    __slots__ = (
        "endpoint",
        "failing",
        "failures",
        "in_flight",
        "lost_at",
        "removed",
        "state",
        "subchannel",
        "successes",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.subchannel: Subchannel | None = None
        self.state = CONNECTING
        self.failing = False
        """Its connection broke, or could not be made, and has not come back since."""
        self.removed = False
        """Named by the resolver no more: it serves the calls it has and then closes."""
        self.lost_at = -math.inf
        """Monotonic second at which it was last seen to have lost its connection."""
        self.in_flight = 0
        self.successes = 0
        self.failures = 0

    @property
    def weight(self) -> float:
        """Its share within its priority."""
        return self.endpoint.weight

    @property
    def healthy(self) -> bool:
        """Whether it is connected."""
        return self.state == READY

    def __repr__(self) -> str:
        left = " removed" if self.removed else ""
        return f"<Host {self.endpoint.address} {NAMES[self.state]}{left} in_flight={self.in_flight}>"
