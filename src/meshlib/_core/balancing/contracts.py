"""Interfaces of load balancing: hosts, calls, pickers and balancers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, runtime_checkable

from meshlib._core.endpoint import Endpoint

__all__ = ["Balancer", "Host", "PickInfo", "Picker", "Report"]


class Host(Protocol):
    """Endpoint in one channel; the same object until it is removed. Read-only to pickers."""

    @property
    def endpoint(self) -> Endpoint:
        """Endpoint as the resolver returned it."""
        ...

    @property
    def weight(self) -> float:
        """Effective weight, which is the endpoint's weight times any temporary reduction."""
        ...

    @property
    def in_flight(self) -> int:
        """Attempts in flight, streams included; counted by the cluster, never by a picker."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether it may be picked. A leaf balancer gets healthy hosts only."""
        ...


class PickInfo(Protocol):
    """Read-only view of the call that needs a host."""

    @property
    def method(self) -> str:
        """Full method name, ``"/package.Service/Method"``."""
        ...

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Request metadata of the caller."""
        ...

    @property
    def hash(self) -> int | None:
        """64 bits from the hash policy. There is no hash policy yet, so it is None."""
        ...

    @property
    def tried(self) -> Sequence[Host]:
        """Hosts that earlier attempts of this call used, oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Result of an attempt or a probe.

    Args:
        code: name of the gRPC status code, such as ``"OK"`` or ``"UNAVAILABLE"``.
        seconds: its duration.
        load: load reported by the server (ORCA), or the answer to the probe; empty, since neither exists yet.
    """

    code: str
    seconds: float
    load: tuple[tuple[str, float], ...] = ()


class Picker(Protocol):
    """Picks among a fixed set of hosts. Its methods are never called concurrently: plain state is safe."""

    stale_at: float = math.inf
    """Monotonic second at which this picker is rebuilt (for weights that change with time)."""

    def pick(self, call: PickInfo, *, now: float) -> Host | None:
        """Return the host for this attempt, without blocking; None queues the call until something changes."""
        ...

    def adopt(self, previous: "Picker", *, now: float) -> None:
        """Take over state from the picker of the previous hosts; called once, before the first pick."""
        return

    def done(self, host: Host, report: Report, *, now: float) -> None:
        """Called when an attempt on ``host`` ends, even if another picker picked the host."""
        return

    def probes(self, *, now: float) -> Sequence[Host]:
        """Return hosts to probe for their load, off the path of calls. Not called yet."""
        return ()

    def probed(self, host: Host, report: Report, *, now: float) -> None:
        """Called with the answer to a probe; there are no probes yet."""
        return


@runtime_checkable
class Balancer(Protocol):
    """Frozen configuration of a load balancing algorithm, shared by any number of channels."""

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Create a picker for these hosts, at least one. Runs outside the lock and may be slow."""
        ...
