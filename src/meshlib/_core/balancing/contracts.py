"""The contracts between the cluster and whatever chooses a host: what each is given and owes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, runtime_checkable

from meshlib._core.endpoint import Endpoint

__all__ = ["Balancer", "Host", "PickInfo", "Picker", "Report"]


class Host(Protocol):
    """One endpoint in one channel; the same object for as long as it stays. Read-only to pickers."""

    @property
    def endpoint(self) -> Endpoint:
        """What the resolver said of it."""
        ...

    @property
    def weight(self) -> float:
        """Effective share: the endpoint's weight times whatever slows it down for now."""
        ...

    @property
    def in_flight(self) -> int:
        """Attempts under way, streams included; counted by the cluster, never by a picker."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether nothing speaks against choosing it. A leaf balancer is given healthy hosts only."""
        ...


class PickInfo(Protocol):
    """What is known of the call that needs a host: the machine of the call itself, read-only."""

    @property
    def method(self) -> str:
        """The full method, ``"/package.Service/Method"``."""
        ...

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The caller's request metadata."""
        ...

    @property
    def hash(self) -> int | None:
        """64 bits from the hash policy, if one is set."""
        ...

    @property
    def tried(self) -> Sequence[Host]:
        """Hosts this call has been sent to, oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How an attempt (or a probe) ended.

    Args:
        code: name of the gRPC status code, ``"OK"`` or ``"UNAVAILABLE"``.
        seconds: how long it took.
        load: what the server said of its load (ORCA), or the probe's answer.
    """

    code: str
    seconds: float
    load: tuple[tuple[str, float], ...] = ()


class Picker(Protocol):
    """Chooses among the hosts of one membership. One method at a time is called: plain state is safe."""

    stale_at: float = math.inf
    """Monotonic second at which this picker wants to be rebuilt (weights that move with time)."""

    def pick(self, call: PickInfo, *, now: float) -> Host | None:
        """The host for this attempt, at once; None makes the call wait for a change."""
        ...

    def adopt(self, previous: "Picker", *, now: float) -> None:
        """Carry over state from the picker of the membership before; called once, before the first pick."""
        return

    def done(self, host: Host, report: Report, *, now: float) -> None:
        """An attempt on ``host`` ended, whoever picked it."""
        return

    def probes(self, *, now: float) -> Sequence[Host]:
        """Hosts to be asked for their load, off the caller's path."""
        return ()

    def probed(self, host: Host, report: Report, *, now: float) -> None:
        """The answer to a probe."""
        return


@runtime_checkable
class Balancer(Protocol):
    """Frozen configuration of an algorithm, shared by any number of channels."""

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """A picker for this membership of at least one host. Runs off the lock and may be slow."""
        ...
