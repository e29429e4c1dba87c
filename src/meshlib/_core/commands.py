"""What a machine asks its shell to do: values, performed in order and outside every lock."""

from typing import TYPE_CHECKING, final

from meshlib._core.status import Outcome

if TYPE_CHECKING:
    from meshlib._core.call import Call
    from meshlib._core.host import Host

__all__ = [
    "CallCommand",
    "CancelAttempt",
    "Close",
    "ClusterCommand",
    "Finish",
    "Lookup",
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
        why: ``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"``.
        start: monotonic second of the command.
    """

    __slots__ = ("host", "n", "outcome", "previous", "seconds", "start", "timeout", "why")

    def __init__(self, n: int, host: "Host", timeout: float | None, why: str, start: float, previous: int) -> None:
        self.n = n
        self.host = host
        self.timeout = timeout
        self.why = why
        self.start = start
        self.previous = previous
        """Attempts before this one that a server may have seen: ``grpc-previous-rpc-attempts`` (gRFC A6)."""
        self.seconds: float | None = None
        self.outcome: Outcome | None = None

    def __repr__(self) -> str:
        end = "in flight" if self.outcome is None else f"{self.outcome.code} after {self.seconds:.3f} s"
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
class Finish:
    """The command to give the caller ``outcome``, that of attempt ``n`` (0: decided without one). Given exactly once."""

    __slots__ = ("n", "outcome")

    def __init__(self, outcome: Outcome, n: int) -> None:
        self.outcome = outcome
        self.n = n

    def __repr__(self) -> str:
        return f"<finish {self.n} {self.outcome.code}>"


@final
class Lookup:
    """The command to ask the resolver again, as soon as its manners allow."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<lookup>"


@final
class Rebuild:
    """The command to call ``Cluster.rebuild``: the hosts to choose from are others than those of the picker in use."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<rebuild>"


@final
class Open:
    """The command to make a subchannel for ``host`` and give it to ``Cluster.opened``."""

    __slots__ = ("host",)

    def __init__(self, host: "Host") -> None:
        self.host = host

    def __repr__(self) -> str:
        return f"<open {self.host.endpoint.address}>"


@final
class Close:
    """The command to close the subchannel of ``host``: it has left and its last attempt has ended."""

    __slots__ = ("host",)

    def __init__(self, host: "Host") -> None:
        self.host = host

    def __repr__(self) -> str:
        return f"<close {self.host.endpoint.address}>"


@final
class Wake:
    """The command to call ``wake()`` of each of ``calls``: what they waited for may have come."""

    __slots__ = ("calls",)

    def __init__(self, calls: "tuple[Call, ...]") -> None:
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
ClusterCommand = Lookup | Rebuild | Open | Close | Wake | StateChanged
