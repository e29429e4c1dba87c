"""Commands of a machine to its shell: values, performed in order and outside every lock."""

import math
from typing import Final, final

from meshlib._core.host import HostEntry, Subchannel
from meshlib._core.status import OK, Outcome
from meshlib._core.waiter import Waiter

__all__ = [
    "ANSWERED",
    "NOTHING",
    "CallCommand",
    "CancelAttempt",
    "Close",
    "ClusterCommand",
    "CallCommands",
    "Diagnose",
    "Finish",
    "RequestReresolution",
    "Open",
    "Rebuild",
    "StartAttempt",
    "StateChanged",
    "Wake",
]


@final
class StartAttempt:
    """Send the request to ``host``; afterwards the record of the attempt.

    Args:
        n: number of the attempt, from 1.
        host: the host to send it to.
        timeout: seconds the attempt may take, for grpc to enforce; None: no limit.
        why: ``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"`` (the previous one was, and does not count).
        start: monotonic second of the command.
        previous: attempts before this one that a server may have seen: ``grpc-previous-rpc-attempts`` (gRFC A6).
    """

    # Defaults of rarely used attributes are on the class, so that other attempts do not pay for them.

    outcome: Outcome | None = None
    """Its outcome for the call."""
    seconds: float | None = None
    """Its duration; None until its outcome is reported."""
    dropped: bool = False
    """Cancelled: its outcome, still to come, no longer counts."""
    holds: bool = False
    """It counts against the retry budget."""
    active: float = math.inf
    """Monotonic second since which the application waits for a message of it; infinite: it does not."""
    panic: bool = False
    """Its host was picked in panic mode: ejected hosts were used too."""
    carrier: tuple[tuple[str, str], ...] = ()
    """Its own metadata, from the observer: the context of its span."""
    ejected: str = ""
    """Why its end ejected its host; empty: it did not."""

    def __init__(self, n: int, host: HostEntry, timeout: float | None, why: str, start: float, previous: int) -> None:
        self.n = n
        self.host = host
        self.timeout = timeout
        self.why = why
        self.start = start
        self.previous = previous

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


@final
class CancelAttempt:
    """Cancel attempt ``n``; its outcome is still to be reported."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n

    def __repr__(self) -> str:
        return f"<cancel {self.n}>"


@final
class Diagnose:
    """Find out why the subchannel of ``host`` fails, and call ``ClusterMachine.on_reason``."""

    __slots__ = ("host", "subchannel")

    def __init__(self, host: HostEntry) -> None:
        self.host = host
        self.subchannel = host.subchannel

    def __repr__(self) -> str:
        return f"<diagnose {self.host.endpoint.address}>"


@final
class Finish:
    """Return ``outcome``, that of attempt ``n`` (0: decided without one), to the caller. Issued once per call."""

    __slots__ = ("n", "outcome")

    def __init__(self, outcome: Outcome, n: int) -> None:
        self.outcome = outcome
        self.n = n

    def __repr__(self) -> str:
        return f"<finish {self.n} {self.outcome.code}>"


@final
class RequestReresolution:
    """Re-resolve the target, subject to the minimum refresh interval."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<request re-resolution>"


@final
class Rebuild:
    """Call ``ClusterMachine.rebuild``: the hosts that can be picked have changed since the picker was built.

    An extra call is harmless. It may be omitted while a rebuild runs, which requests another by itself.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<rebuild>"


@final
class Open:
    """Create a subchannel for ``host`` and pass it to ``ClusterMachine.opened``.

    If that fails, call ``ClusterMachine.on_connectivity`` with TRANSIENT_FAILURE; the next resolution requests it
    again.
    """

    __slots__ = ("host",)

    def __init__(self, host: HostEntry) -> None:
        self.host = host

    def __repr__(self) -> str:
        return f"<open {self.host.endpoint.address}>"


@final
class Close:
    """Close a subchannel of ``host``, by default its present one: the host is drained, or gets a new subchannel."""

    __slots__ = ("host", "subchannel")

    def __init__(self, host: HostEntry, subchannel: Subchannel | None = None) -> None:
        self.host = host
        self.subchannel = subchannel or host.subchannel

    def __repr__(self) -> str:
        return f"<close {self.host.endpoint.address}>"


@final
class Wake:
    """Call ``wake()`` of each of ``calls``: their wait may be over."""

    __slots__ = ("calls",)

    def __init__(self, calls: tuple[Waiter, ...]) -> None:
        self.calls = calls

    def __repr__(self) -> str:
        return f"<wake {len(self.calls)}>"


@final
class StateChanged:
    """Notify the subscribers of the channel's connectivity of its new ``state``."""

    __slots__ = ("state",)

    def __init__(self, state: int) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<state {self.state}>"


CallCommand = StartAttempt | CancelAttempt | Finish
CallCommands = tuple[CallCommand, ...]
"""Result of an input of a call."""

NOTHING: Final[CallCommands] = ()
ANSWERED: Final[CallCommands] = (Finish(OK, 1),)
"""End of almost every call, allocated once."""

ClusterCommand = RequestReresolution | Rebuild | Open | Close | Diagnose | Wake | StateChanged
