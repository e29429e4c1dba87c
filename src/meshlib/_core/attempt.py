"""State of one attempt of a call, written by the state machine of the call and its cluster."""

import math
from typing import final

from meshlib._core.host import HostEntry
from meshlib._core.status import Outcome

__all__ = ["AttemptRecord"]


@final
class AttemptRecord:
    """Record of one attempt.

    Args:
        n: its number, from 1.
        host: the host it is sent to.
        timeout: seconds it may take, for grpc to enforce; None: no limit.
        start: monotonic second of its start.
    """

    # Defaults of rarely used attributes are on the class, so that other attempts do not pay for them.

    why: str = "first"
    """``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"`` (the previous one was, and does not count)."""
    previous: int = 0
    """Attempts before this one that a server may have seen: ``grpc-previous-rpc-attempts`` (gRFC A6)."""
    carrier: tuple[tuple[str, str], ...] = ()
    """Its own metadata, from the observer: the context of its span."""
    outcome: Outcome | None = None
    """Its outcome for the call."""
    seconds: float | None = None
    """Its duration; None until its outcome is reported."""
    dropped: bool = False
    """Cancelled: its later outcome does not count."""
    holds: bool = False
    """It counts against the retry budget."""
    active: float = math.inf
    """Monotonic second since which the application waits for a message of it; infinite: it does not."""
    panic: bool = False
    """Its host was picked in panic mode: ejected hosts were used too."""
    ejected: str = ""
    """Why its end ejected its host; empty: it did not."""

    def __init__(self, n: int, host: HostEntry, timeout: float | None, start: float) -> None:
        self.n = n
        self.host = host
        self.timeout = timeout
        self.start = start

    @property
    def code(self) -> str | None:
        """Name of its status code; None while it is in flight and counts. CANCELLED from the moment that another hedge
        wins or its call is cancelled."""
        if self.outcome is not None:
            return self.outcome.code
        return "CANCELLED" if self.dropped else None

    def __repr__(self) -> str:
        end = "in flight" if self.outcome is None else self.outcome.code
        if self.seconds is not None:
            end += f" after {self.seconds:.3f} s"
        return f"<attempt {self.n} {self.host.endpoint.address} {self.why}: {end}>"
