"""Simulation of balancers: hosts without servers, and the shares they get, reproducible by seed."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from ipaddress import IPv4Address
from random import Random
from typing import Final, final

from meshlib._core.balancing.contracts import Balancer, Host, Picker, Report
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.endpoint import Endpoint
from meshlib._core.errors import ConfigError

__all__ = ["SimulatedCall", "SimulatedHost", "hosts", "shares"]

FIRST: Final = int(IPv4Address("10.0.0.1"))
PORT: Final = 50051


@final
class SimulatedHost:
    """Simulated :class:`meshlib.balancing.Host` without a server. Pickers only read it; tests may set its attributes.

    Args:
        endpoint: its endpoint, as from a resolver; ``weight`` starts at its weight.
    """

    __slots__ = ("endpoint", "healthy", "in_flight", "weight")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.weight: float = endpoint.weight
        self.in_flight = 0
        self.healthy = True

    def __repr__(self) -> str:
        return f"<SimulatedHost {self.endpoint.address} weight={self.weight:g} in_flight={self.in_flight}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedCall:
    """Simulated :class:`meshlib.balancing.PickInfo`, for ``picker.pick(SimulatedCall(), now=0.0)``."""

    method: str = "/test.Service/Method"
    metadata: Sequence[tuple[str, str | bytes]] = ()
    hash: int | None = None
    tried: Sequence[Host] = ()


def hosts(
    of: int | Iterable[str | Endpoint] | None = None, *, weights: Sequence[int] | None = None
) -> tuple[SimulatedHost, ...]:
    """Create simulated hosts.

    Args:
        of: their number, at ``10.0.0.1:50051`` and so on; or their addresses; or endpoints.
        weights: one for each; without ``of`` there is one host for each weight.

    Raises:
        ConfigError: no hosts, not as many weights as hosts, or an invalid endpoint.
    """
    if of is None:
        of = len(weights or ())
    named: list[str | Endpoint] = (
        [f"{IPv4Address(FIRST + n)}:{PORT}" for n in range(of)] if isinstance(of, int) else [*of]
    )
    if not named:
        raise ConfigError(
            "hosts", named, "must name at least one host, as in hosts(3), hosts([address]), hosts(weights=[3, 1])"
        )
    endpoints = [each if isinstance(each, Endpoint) else Endpoint(address=each) for each in named]
    if weights is not None:
        if len(weights) != len(endpoints):
            raise ConfigError("weights", weights, f"must have one weight for each of the {len(endpoints)} hosts")
        endpoints = [replace(endpoint, weight=weight) for endpoint, weight in zip(endpoints, weights, strict=True)]
    return tuple(map(SimulatedHost, endpoints))


def shares(
    balancer: Balancer,
    hosts: Sequence[SimulatedHost],
    *,
    calls: int = 10_000,
    seed: int = 0,
    hold: float | Callable[[Host], float] = 0.0,
) -> dict[str, float]:
    """Simulate a balancer: the share of the calls that each host gets, 0 to 1, by address.

    One call starts each second of virtual time, without real waiting. Running calls count as ``in_flight``. As in a
    channel, the picker is notified of their ends by ``done`` and rebuilt at its ``stale_at``.

    Args:
        balancer: the balancer to simulate.
        hosts: its hosts. As in a channel, unhealthy ones are excluded, except for
            :class:`~meshlib.balancing.Priorities`, which gets all.
        calls: number of calls.
        seed: of every random choice.
        hold: duration of a call in seconds, equal to the number of calls that start meanwhile. A number, or a function
            called for each call: ``lambda host: 100 if host is slow else 5``.

    Raises:
        ConfigError: no host is healthy.
        AssertionError: the picker returned None or a host that is not its own.
    """
    rng = Random(seed)
    given = tuple(host for host in hosts if host.healthy or isinstance(balancer, Priorities))
    if not any(host.healthy for host in hosts):
        raise ConfigError("hosts", hosts, "must have at least one healthy host")
    before = [(host, host.in_flight) for host in given]
    members = set(given)
    picked: Counter[str] = Counter()
    under_way: list[tuple[float, int, SimulatedHost, float]] = []
    picker: Picker = balancer.picker(given, rng=rng)
    try:
        for turn in range(calls):
            now = float(turn)
            while under_way and under_way[0][0] <= now:
                end, _, host, seconds = heappop(under_way)
                host.in_flight -= 1
                _finish(picker, host, seconds, end)
            if now >= getattr(picker, "stale_at", now + 1):
                picker = _rebuilt(balancer, given, picker, rng, now)
            chosen = picker.pick(SimulatedCall(hash=rng.getrandbits(64)), now=now)
            if chosen not in members:
                raise AssertionError(f"{picker!r} picked {chosen!r}, not one of its {len(given)} hosts")
            assert isinstance(chosen, SimulatedHost)
            picked[chosen.endpoint.address] += 1
            seconds = hold(chosen) if callable(hold) else hold
            chosen.in_flight += 1
            heappush(under_way, (now + seconds, turn, chosen, seconds))
    finally:
        for host, in_flight in before:
            host.in_flight = in_flight
    return {host.endpoint.address: picked[host.endpoint.address] / calls for host in hosts}


def _finish(picker: Picker, host: SimulatedHost, seconds: float, now: float) -> None:
    done = getattr(picker, "done", None)  # optional, like adopt
    if done is not None:
        done(host, Report(code="OK", seconds=seconds), now=now)


def _rebuilt(balancer: Balancer, hosts: tuple[Host, ...], previous: Picker, rng: Random, now: float) -> Picker:
    picker = balancer.picker(hosts, rng=rng)
    if type(picker) is type(previous) and hasattr(picker, "adopt"):
        picker.adopt(previous, now=now)
    return picker
