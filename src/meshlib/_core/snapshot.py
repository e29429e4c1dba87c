"""What a channel looks like at one moment: frozen values that ``dataclasses.asdict`` turns into JSON."""

from dataclasses import dataclass

__all__ = ["ChannelSnapshot", "HostSnapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSnapshot:
    """One host.

    Args:
        address: where it is.
        state: its connectivity, gRPC's name for it.
        in_flight: attempts under way.
        weight: its share within its priority.
        priority: 0 is tried first.
        successes: attempts that ended OK.
        failures: attempts that ended otherwise.
        ejected_until: seconds until it may come back, at the sweep of outlier detection after that; None: it is not
            ejected.
        ejected_for: why it is ejected, in words; empty if it is not.
        state_since: seconds it has been in its state.
        last_error: why it cannot be connected, in C-core's words, a second after it began to fail; empty while it is
            connected.
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
    """One channel.

    Args:
        target: as the application wrote it.
        resolver: the name of what resolves it.
        state: the connectivity of the whole.
        hosts: in the order the resolver named them.
        last_resolution: seconds since the last question was put; None before the first.
        next_resolution: seconds until the next one; None while one is put, or if none is due.
        resolution_error: why the last one failed; None if it did not.
        retries: retries and hedges that were given a place, so far.
        retries_held: places of the retry budget in use.
        retries_refused: retries that the budget, the throttling or the circuit breaker did not allow, so far.
        requests_refused: calls and attempts that the circuit breaker did not allow, so far.
        waiting: calls that wait for a host.
        ejections: hosts ejected so far.
        ejections_spared: outliers so far that stayed, because as many as may be were ejected already.
        panic: priorities of which ejected hosts are used as well, because too few are left.
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
