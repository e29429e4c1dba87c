"""Host: the live entry of one endpoint in one cluster, and its availability.

Only this module compares the known state of a connection, an ejection or a failure; all others use the properties here.
"""

import math
from typing import Protocol, final

from meshlib._core.connectivity import CONNECTING, NAMES, READY, SHUTDOWN, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.health.record import Record

__all__ = ["Ejection", "HostEntry", "Subchannel"]


class Subchannel(Protocol):
    """Connection of a host, as the core reads it: never inside a step, and not after its Close.

    Raises:
        ValueError: it was just closed.
    """

    def state(self, connect: bool) -> int:
        """Return the connectivity state; with ``connect`` an idle connection starts to connect."""
        ...

    def glance(self) -> int | None:
        """Like ``state(True)``; None: it cannot be read without waiting for another thread."""
        ...


@final
class Ejection:
    """Ejection of a host by outlier detection.

    Args:
        why: the reason in words.
        until: monotonic second; the host returns at the first sweep of outlier detection from then on.
    """

    __slots__ = ("until", "why")

    def __init__(self, why: str, until: float) -> None:
        self.why = why
        self.until = until


@final
class HostEntry:
    """One endpoint in one channel: the same object while the endpoint stays, whatever its weight or priority.

    Written in serialized steps only, except for counters.
    """

    __slots__ = (
        "__weakref__",
        "_ejection",
        "_state",
        "connected",
        "dials",
        "ejected",
        "endpoint",
        "failing",
        "failures",
        "in_flight",
        "last_error",
        "lost_at",
        "record",
        "removed",
        "stamp",
        "state_since",
        "struck",
        "subchannel",
        "successes",
        "unasked",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.subchannel: Subchannel | None = None
        self._state = CONNECTING
        self.connected = False
        """Its connection is known to be ready."""
        self.stamp = 0
        """Incremented by each change of the connection: a state read before the change is stale."""
        self.state_since = 0.0
        """Monotonic second at which it entered its state."""
        self.last_error = ""
        """Why it cannot be connected, once diagnosed; empty while connected."""
        self.failing = False
        """Its connection broke or could not be established, and has not recovered."""
        self.removed = False
        """No longer resolved: it drains and then closes."""
        self.lost_at = -math.inf
        """Monotonic second of the last known loss of its connection."""
        self.unasked = False
        """No call has needed it since it lost its connection: the next call may have it redialled."""
        self.dials = 0
        """Number of redials."""
        self.in_flight = 0
        self.successes = 0
        self.failures = 0
        self._ejection: Ejection | None = None
        self.ejected = False
        """Ejected by outlier detection."""
        self.struck = False
        """Consecutive failures are counted; the next success resets them."""
        self.record = Record()

    @property
    def weight(self) -> float:
        """Its share within its priority."""
        return self.endpoint.weight

    @property
    def totals(self) -> tuple[int, int, int, int]:
        """Its attempts so far, by result: successes, other answers, errors, local errors."""
        record = self.record
        return self.successes, record.others, record.errors, record.local_errors

    # Availability.

    @property
    def state(self) -> int:
        """Known state of its connection."""
        return self._state

    @state.setter
    def state(self, state: int) -> None:
        self._state = state  # uninterrupted
        self.connected = state == READY  # uninterrupted

    @property
    def ejection(self) -> Ejection | None:
        """Its ejection by outlier detection; None: not ejected."""
        return self._ejection

    @ejection.setter
    def ejection(self, ejection: Ejection | None) -> None:
        self._ejection = ejection  # uninterrupted
        self.ejected = ejection is not None  # uninterrupted

    @property
    def healthy(self) -> bool:
        """Whether it is connected and not ejected."""
        return self.connected and not self.ejected

    @property
    def sound(self) -> bool:
        """Whether it counts as healthy for panic. A connecting host does: otherwise a starting channel would panic."""
        return not self.failing and not self.ejected

    @property
    def promising(self) -> bool:
        """Whether its connection has not failed."""
        return not self.failing

    @property
    def unreachable(self) -> bool:
        """Whether its connection could not be established, or broke and backs off."""
        return self._state == TRANSIENT_FAILURE

    @property
    def waits_for_a_call(self) -> bool:
        """Whether it fails, and no call has needed it since it lost its connection."""
        return self.failing and self.unasked and self.subchannel is not None

    @property
    def condition(self) -> str:
        """Its state in one word."""
        return "ejected" if self.ejected else NAMES[self._state]

    @property
    def ejected_for(self) -> str:
        """Reason of its ejection; empty: not ejected."""
        return "" if self._ejection is None else self._ejection.why

    def ejected_until(self, *, now: float) -> float | None:
        """Seconds until its ejection ends; None: not ejected."""
        return None if self._ejection is None else max(0.0, self._ejection.until - now)

    def differs(self, state: int | None) -> bool:
        """Whether ``state`` differs from the known state; None: it could not be read."""
        return state is not None and state != self._state

    def begins_to_fail(self, *, was_connected: bool) -> bool:
        """Whether its change to the current state is a new failure."""
        if was_connected:
            return not self.failing
        # Also a redialled host that could not be opened: the resolver may have a newer answer.
        return self.unreachable and (not self.failing or self.subchannel is None)

    def redial_may_be_faster(self) -> bool:
        """Whether a new connection may be ready sooner: its own was lost or could not be established."""
        subchannel = self.subchannel
        if subchannel is None:
            return self.failing
        try:
            state = subchannel.glance()
        except ValueError:
            return False  # closed meanwhile
        lost = self.failing or self.connected
        return state == TRANSIENT_FAILURE or (state not in (None, READY, SHUTDOWN) and lost)

    def __repr__(self) -> str:
        left = " removed" if self.removed else " ejected" if self.ejected else ""
        return f"<Host {self.endpoint.address} {NAMES[self._state]}{left} in_flight={self.in_flight}>"
