"""What a machine asks its shell to do: values, performed in order and outside every lock."""

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
    """The command to send the request to ``host``; afterwards the record of what became of it.

    Args:
        n: number of the attempt, from 1.
        host: where to.
        timeout: seconds the attempt may take, for grpc to enforce; None: no limit.
        why: ``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"`` (the one before was, and counts for nothing).
        start: monotonic second of the command.
        previous: attempts before this one that a server may have seen: ``grpc-previous-rpc-attempts`` (gRFC A6).
    """

    # What few attempts ever need has its value here, so that the others do not pay for it.

    outcome: Outcome | None = None
    """What became of it, as far as the call is concerned."""
    seconds: float | None = None
    """How long it took; None until its outcome is reported."""
    dropped: bool = False
    """Cancelled: its outcome, still to come, no longer counts."""
    holds: bool = False
    """It holds a place in the retry budget."""
    active: float = math.inf
    """Monotonic second since which the application waits for a message of it; infinite: it does not."""
    panic: bool = False
    """Ejected hosts were used as well when its host was chosen."""
    carrier: tuple[tuple[str, str], ...] = ()
    """Metadata of its own: the context of its span."""
    ejected: str = ""
    """Why its end had its host ejected; empty: it had not."""

    def __init__(self, n: int, host: HostEntry, timeout: float | None, why: str, start: float, previous: int) -> None:
        self.n = n
        self.host = host
        self.timeout = timeout
        self.why = why
        self.start = start
        self.previous = previous

    @property
    def code(self) -> str | None:
        """The name of its status code; None while it is in flight and may count. One that lost against a hedge, or
        whose call was cancelled, is CANCELLED from then on."""
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
    """The command to end attempt ``n``; its outcome is still to be reported."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n

    def __repr__(self) -> str:
        return f"<cancel {self.n}>"


@final
class Diagnose:
    """The command to ask the subchannel of ``host`` why it fails, and to answer with ``Cluster.on_reason``."""

    __slots__ = ("host", "subchannel")

    def __init__(self, host: HostEntry) -> None:
        self.host = host
        self.subchannel = host.subchannel

    def __repr__(self) -> str:
        return f"<diagnose {self.host.endpoint.address}>"


@final
class Finish:
    """The command to give the caller ``outcome``, that of attempt ``n`` (0: decided without one). Given once a call."""

    __slots__ = ("n", "outcome")

    def __init__(self, outcome: Outcome, n: int) -> None:
        self.outcome = outcome
        self.n = n

    def __repr__(self) -> str:
        return f"<finish {self.n} {self.outcome.code}>"


@final
class RequestReresolution:
    """The command to ask the resolver again, as soon as its manners allow."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<lookup>"


@final
class Rebuild:
    """The command to call ``Cluster.rebuild``: who may be chosen has changed since the picker in use was made.

    It is harmless once too often, and may be left out while a rebuild is under way: that one asks for it again.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<rebuild>"


@final
class Open:
    """The command to make a subchannel for ``host`` and give it to ``Cluster.opened``.

    If it cannot be made, ``Cluster.on_connectivity`` is told TRANSIENT_FAILURE; with the next answer of the resolver it
    is asked for again.
    """

    __slots__ = ("host",)

    def __init__(self, host: HostEntry) -> None:
        self.host = host

    def __repr__(self) -> str:
        return f"<open {self.host.endpoint.address}>"


@final
class Close:
    """The command to close a subchannel of ``host``, the one that it has now unless another is named: it has left and
    its last attempt has ended, or it is to have another."""

    __slots__ = ("host", "subchannel")

    def __init__(self, host: HostEntry, subchannel: Subchannel | None = None) -> None:
        self.host = host
        self.subchannel = subchannel or host.subchannel

    def __repr__(self) -> str:
        return f"<close {self.host.endpoint.address}>"


@final
class Wake:
    """The command to call ``wake()`` of each of ``calls``: what they waited for may have come."""

    __slots__ = ("calls",)

    def __init__(self, calls: tuple[Waiter, ...]) -> None:
        self.calls = calls

    def __repr__(self) -> str:
        return f"<wake {len(self.calls)}>"


@final
class StateChanged:
    """The command to tell whoever watches the channel's connectivity that it is ``state`` now."""

    __slots__ = ("state",)

    def __init__(self, state: int) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<state {self.state}>"


CallCommand = StartAttempt | CancelAttempt | Finish
CallCommands = tuple[CallCommand, ...]
"""What an input of a call is answered with."""

NOTHING: Final[CallCommands] = ()
ANSWERED: Final[CallCommands] = (Finish(OK, 1),)
"""How almost every call ends: made once."""

ClusterCommand = RequestReresolution | Rebuild | Open | Close | Diagnose | Wake | StateChanged
