"""Commands of a machine to its shell: values, performed in order and outside every lock.

Their attributes are ``Final``: a type checker rejects an assignment. A frozen dataclass would reject it at run
time, and call ``object.__setattr__`` for each attribute of each command.
"""

from typing import Final, final

from meshlib._core.attempt import AttemptRecord
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
    """Send the attempt of ``record`` to its host, with its timeout and metadata."""

    __slots__ = ("record",)

    def __init__(self, record: AttemptRecord) -> None:
        self.record: Final = record

    def __repr__(self) -> str:
        return f"<start {self.record.n} {self.record.host.endpoint.address} {self.record.why}>"


@final
class CancelAttempt:
    """Cancel attempt ``n``; its outcome is still to be reported."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n: Final = n

    def __repr__(self) -> str:
        return f"<cancel {self.n}>"


@final
class Diagnose:
    """Find out why the subchannel of ``host`` fails, and call ``ClusterMachine.on_reason``."""

    __slots__ = ("host", "subchannel")

    def __init__(self, host: HostEntry) -> None:
        self.host: Final = host
        self.subchannel: Final = host.subchannel

    def __repr__(self) -> str:
        return f"<diagnose {self.host.endpoint.address}>"


@final
class Finish:
    """Return ``outcome``, that of attempt ``n`` (0: decided without one), to the caller. Issued once per call."""

    __slots__ = ("n", "outcome")

    def __init__(self, outcome: Outcome, n: int) -> None:
        self.outcome: Final = outcome
        self.n: Final = n

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
        self.host: Final = host

    def __repr__(self) -> str:
        return f"<open {self.host.endpoint.address}>"


@final
class Close:
    """Close a subchannel of ``host``, by default its current one: the host is drained, or gets a new subchannel."""

    __slots__ = ("host", "subchannel")

    def __init__(self, host: HostEntry, subchannel: Subchannel | None = None) -> None:
        self.host: Final = host
        self.subchannel: Final = subchannel or host.subchannel

    def __repr__(self) -> str:
        return f"<close {self.host.endpoint.address}>"


@final
class Wake:
    """Call ``wake()`` of each of ``calls``: their wait may be over."""

    __slots__ = ("calls",)

    def __init__(self, calls: tuple[Waiter, ...]) -> None:
        self.calls: Final = calls

    def __repr__(self) -> str:
        return f"<wake {len(self.calls)}>"


@final
class StateChanged:
    """Notify the subscribers of the channel's connectivity of its new ``state``."""

    __slots__ = ("state",)

    def __init__(self, state: int) -> None:
        self.state: Final = state

    def __repr__(self) -> str:
        return f"<state {self.state}>"


CallCommand = StartAttempt | CancelAttempt | Finish
CallCommands = tuple[CallCommand, ...]
"""Result of an input of a call."""

NOTHING: Final[CallCommands] = ()
ANSWERED: Final[CallCommands] = (Finish(OK, 1),)
"""End of almost every call, allocated once."""

ClusterCommand = RequestReresolution | Rebuild | Open | Close | Diagnose | Wake | StateChanged
