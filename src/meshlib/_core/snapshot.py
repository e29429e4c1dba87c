"""Snapshots of channels and hosts: frozen values; ``dataclasses.asdict`` prepares them for JSON."""

from dataclasses import dataclass

__all__ = ["ChannelSnapshot", "HostSnapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSnapshot:
    """Snapshot of one host.

    Args:
        address: of its endpoint.
        state: gRPC's name of its connectivity state, such as ``"READY"``.
        in_flight: attempts in flight.
        weight: share of the traffic within its priority.
        priority: 0 is tried first.
        successes: attempts that ended OK.
        failures: attempts that ended otherwise.
        ejected_until: seconds until its ejection ends; it returns at the next sweep of outlier detection. None: not
            ejected.
        ejected_for: reason of the ejection, in words; empty if not ejected.
        state_since: seconds since it entered its state.
        last_error: C-core's connection error, from one second after the first failure on; empty while connected.
    """

    address: str
    state: str
    in_flight: int
    weight: float
    priority: int
    successes: int
    failures: int
    ejected_until: float | None = None
    ejected_for: str = ""
    state_since: float = 0.0
    last_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSnapshot:
    """Snapshot of one channel.

    Args:
        target: as the application wrote it.
        resolver: name of the resolver.
        state: gRPC's name of the connectivity state of the channel.
        hosts: in the resolver's order.
        last_resolution: seconds since the last resolution began; None before the first.
        next_resolution: seconds until the next one; None while one runs, or if none is due.
        resolution_error: error of the last resolution; None if it succeeded.
        retries: retries and hedges allowed so far.
        retries_held: retries and hedges that count against the retry budget now.
        retries_refused: retries that the budget, the throttling or the circuit breaker rejected so far.
        requests_refused: calls and attempts that the circuit breaker rejected so far.
        waiting: calls that wait for a host now.
        ejections: ejections so far.
        ejections_spared: outliers not ejected so far, because the maximum was ejected already.
        panic: priorities in panic: ejected hosts are used too, because too few are healthy.
    """

    target: str
    resolver: str
    state: str
    hosts: tuple[HostSnapshot, ...] = ()
    last_resolution: float | None = None
    next_resolution: float | None = None
    resolution_error: str | None = None
    retries: int = 0
    retries_held: int = 0
    retries_refused: int = 0
    requests_refused: int = 0
    waiting: int = 0
    ejections: int = 0
    ejections_spared: int = 0
    panic: tuple[int, ...] = ()
