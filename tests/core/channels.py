"""A cluster's machine with the control plane of a test: subchannels are links, whose states the test sets."""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.core.scripted import METHOD, Ear, plan

from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import Call, CallObserver
from meshlib._core.cluster import ClusterMachine
from meshlib._core.cluster_policy import ClusterPolicy
from meshlib._core.cluster_steps import ClusterCommands
from meshlib._core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from meshlib._core.dispatch import dispatch
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.hedged import machine
from meshlib._core.host import HostEntry
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.policy import HedgingPolicy, RetryBudget, RetryPolicy
from meshlib._core.serial import ALONE, Threads
from meshlib._core.status import Outcome

Moves = dict[str, tuple[int, Callable[[Random], tuple[Any, ...]]]]
"""Rules of a state machine by name, with a weight and a strategy for their arguments."""


class Link:
    """The connection of one host, in the state set by the test. Use after its end is an error."""

    def __init__(self, host: HostEntry) -> None:
        self.host = host
        self.is_now = CONNECTING
        self.closed = 0
        self.asked = 0

    def state(self, connect: bool) -> int:
        assert not self.closed, f"{self.host!r} was used after its Close"
        self.asked += 1
        return self.is_now

    def glance(self) -> int | None:
        return self.state(True)


class Ports:
    """The operations of a shell for a cluster, recorded in a :class:`Channel`."""

    def __init__(self, channel: "Channel", now: float) -> None:
        self._channel = channel
        self._now = now

    def open(self, host: HostEntry) -> ClusterCommands:
        """A subchannel for ``host``, or a failure."""
        channel, address = self._channel, host.endpoint.address
        channel.opened.append(address)
        if address in channel.unopenable:
            return channel.cluster.on_connectivity(host, TRANSIENT_FAILURE, now=self._now)
        link = Link(host)
        channel.links[address] = link
        channel.every_link.append(link)
        return channel.cluster.opened(host, link, now=self._now)

    def close(self, host: HostEntry, subchannel: Any) -> None:
        """Count it at the link and at the channel."""
        subchannel.closed += 1
        self._channel.closed.append(host.endpoint.address)

    def diagnose(self, host: HostEntry, subchannel: object) -> None:
        """Record the host."""
        self._channel.diagnosed.append(host.endpoint.address)

    def rebuild(self) -> ClusterCommands:
        """At once."""
        return self._channel.cluster.rebuild(now=self._now)

    def wake(self, calls: tuple[Any, ...]) -> None:
        """Record and wake them."""
        self._channel.woken.extend(calls)
        for call in calls:
            call.wake()

    def state_changed(self, state: int) -> None:
        """Record it."""
        self._channel.states.append(state)

    def request_reresolution(self) -> None:
        """Count it."""
        self._channel.lookups += 1


class Channel:
    """A cluster whose commands are performed at once, on links that a test controls.

    Args:
        balancer: round robin by default.
        budget: of retries.
        outlier_detection: of the cluster.
        circuit_breaker: of the cluster.
        throttling: of retries.
        threads: of the cluster.
        seed: of its random choices.
        unopenable: addresses for which creating a subchannel fails.
        defer: leave commands in :attr:`pending` instead; :meth:`perform` takes them from there.
    """

    def __init__(
        self,
        balancer: Balancer | None = None,
        *,
        budget: RetryBudget | None = None,
        outlier_detection: OutlierDetection | None = None,
        circuit_breaker: CircuitBreaker | None = None,
        throttling: RetryThrottling | None = None,
        threads: Threads = ALONE,
        seed: int = 0,
        defer: bool = False,
    ) -> None:
        self.ear = Ear()
        self.diagnosed: list[str] = []
        self.asked_for_attention = 0
        self.cluster = ClusterMachine(
            "svc-a",
            ClusterPolicy(
                balancer=balancer or RoundRobin(),
                retry_budget=budget,
                retry_throttling=throttling,
                outlier_detection=outlier_detection,
                circuit_breaker=circuit_breaker,
            ),
            rng=Random(seed),
            threads=threads,
            attention=self._attention,
            observer=self.ear,
        )
        self.links: dict[str, Link] = {}
        """The newest link of each address."""
        self.every_link: list[Link] = []
        self.unopenable: set[str] = set()
        self.lookups = 0
        self.states: list[int] = []
        self.woken: list[Call] = []
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.pending: deque[Any] = deque()
        self._defer = defer

    def _attention(self) -> None:
        self.asked_for_attention += 1

    # Inputs, with their commands performed.

    def resolve(self, *named: str | Endpoint, now: float) -> None:
        """The resolver returns these endpoints."""
        endpoints = tuple(each if isinstance(each, Endpoint) else Endpoint(address=each) for each in named)
        self.take(self.cluster.on_resolved(Resolution(endpoints=endpoints), now=now), now)

    def fail(self, reason: str, *, now: float) -> None:
        """The resolver fails."""
        self.take(self.cluster.on_resolution_failed(reason, now=now), now)

    def put(self, address: str, state: int, *, now: float, seen: bool = True) -> None:
        """Change the state of a host's connection; with ``seen`` the cluster is notified."""
        link = self.links[address]
        link.is_now = state
        if seen:
            self.take(self.cluster.on_connectivity(link.host, state, now=now), now)

    def step(self, *, now: float) -> None:
        """Run the timer, or handle a request for attention."""
        self.take(self.cluster.on_timer(now=now), now)

    def close(self, *, now: float) -> None:
        """The channel closes."""
        self.take(self.cluster.close(now=now), now)

    def take(self, commands: Sequence[Any], now: float) -> None:
        """Perform commands, or with ``defer`` leave them for :meth:`perform`."""
        self.pending.extend(commands)
        if not self._defer:
            self.perform(now=now)

    def perform(self, *, now: float, most: int | None = None) -> None:
        """Perform pending commands, in order."""
        while self.pending and most != 0:
            most = None if most is None else most - 1
            self.pending.extend(dispatch(self.pending.popleft(), Ports(self, now)))

    # Shorthands.

    def call(
        self, policy: RetryPolicy | HedgingPolicy | None = None, *, observer: CallObserver | None = None, **more: Any
    ) -> Call:
        """A call on this channel, not yet begun."""
        call = machine(plan(policy))(self.cluster, plan(policy), METHOD, **more)
        if observer is not None:
            call.observe(observer)
        return call

    def host(self, address: str) -> HostEntry:
        """The host at an address."""
        return next(host for host in self.cluster.hosts if host.endpoint.address == address)

    def pick(self, call: Call | None = None, *, now: float = 0.0) -> str:
        """The address of one pick, released at once; or the result the pick returned instead."""
        chosen = self.cluster.pick(call or self.call(), now=now)
        if not isinstance(chosen, HostEntry):
            return repr(chosen)
        self.cluster.report(chosen, Outcome("OK"), 0.0, now=now)
        return chosen.endpoint.address

    @classmethod
    def of(cls, *named: str | Endpoint, now: float = 0.0, **more: Any) -> "Channel":
        """A channel with these hosts, all connected."""
        channel = cls(**more)
        channel.resolve(*named, now=now)
        for address in list(channel.links):
            channel.put(address, READY, now=now)
        return channel


def walk(machine: Any, moves: Moves, *, steps: int, rng: Random) -> None:
    """Take an initialised state machine through many steps, and run its checks after each.

    Hypothesis tries short and strange stories, and shrinks failures; this one goes deep.
    """
    names, weights = list(moves), [weight for weight, _ in moves.values()]
    for name in rng.choices(names, weights, k=steps):
        getattr(machine, name)(*moves[name][1](rng))
        machine.check()
    machine.teardown()
