"""The live entry of one endpoint in one cluster, and its availability.

Only this module compares the state of a connection, an ejection or a failure; all others ask the properties here.
"""

import math
from typing import Protocol, final

from meshlib._core.connectivity import CONNECTING, NAMES, READY, SHUTDOWN, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.health.record import Record

__all__ = ["Ejection", "HostEntry", "Subchannel"]


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
class HostEntry:
    """One endpoint in one channel: the same object for as long as the endpoint stays, whatever its weight or priority.

    Written in serialized steps only, but for what is counted.
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
        """Its connection is ready, as far as is known."""
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
        self._ejection: Ejection | None = None
        self.ejected = False
        """Outlier detection leaves it out."""
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

    # Availability.

    @property
    def state(self) -> int:
        """The known state of its connection."""
        return self._state

    @state.setter
    def state(self, state: int) -> None:
        self._state = state
        self.connected = state == READY

    @property
    def ejection(self) -> Ejection | None:
        """Why outlier detection leaves it out; None: it does not."""
        return self._ejection

    @ejection.setter
    def ejection(self, ejection: Ejection | None) -> None:
        self._ejection = ejection
        self.ejected = ejection is not None

    @property
    def healthy(self) -> bool:
        """Whether it is connected and not ejected."""
        return self.connected and not self.ejected

    @property
    def sound(self) -> bool:
        """Whether it counts as healthy for panic. One that is about to connect does: else a channel that starts would
        panic."""
        return not self.failing and not self.ejected

    @property
    def promising(self) -> bool:
        """Whether its connection has not failed: it is, or is about to be, connected."""
        return not self.failing

    @property
    def unreachable(self) -> bool:
        """Whether its connection could not be made, or broke and backs off."""
        return self._state == TRANSIENT_FAILURE

    @property
    def waits_for_a_call(self) -> bool:
        """Whether it fails, and no call has asked for it since it lost its connection."""
        return self.failing and self.unasked and self.subchannel is not None

    @property
    def condition(self) -> str:
        """Its state in one word."""
        return "ejected" if self.ejected else NAMES[self._state]

    @property
    def ejected_for(self) -> str:
        """Why it is ejected; empty: it is not."""
        return "" if self._ejection is None else self._ejection.why

    def ejected_until(self, *, now: float) -> float | None:
        """Seconds until its ejection is over; None: it is not ejected."""
        return None if self._ejection is None else max(0.0, self._ejection.until - now)

    def differs(self, state: int | None) -> bool:
        """Whether its connection has changed if it is in ``state`` now; None: that could not be read."""
        return state is not None and state != self._state

    def begins_to_fail(self, *, was_connected: bool) -> bool:
        """Whether its change to the present state is a failure that was not known before."""
        if was_connected:
            return not self.failing
        # One that was to be dialled anew and could not be opened, too: the resolver may know better by now.
        return self.unreachable and (not self.failing or self.subchannel is None)

    def slower_than_a_new_connection(self) -> bool:
        """Whether a new dial may be quicker than its own: that was lost, or could not be made."""
        subchannel = self.subchannel
        if subchannel is None:
            return self.failing
        try:
            state = subchannel.glance()
        except ValueError:
            return False  # closed this moment
        lost = self.failing or self.connected
        return state == TRANSIENT_FAILURE or (state not in (None, READY, SHUTDOWN) and lost)

    def __repr__(self) -> str:
        left = " removed" if self.removed else " ejected" if self.ejected else ""
        return f"<Host {self.endpoint.address} {NAMES[self._state]}{left} in_flight={self.in_flight}>"
