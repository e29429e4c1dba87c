"""Scripted counterparts for tests of the machines: links that connect on command, a cluster that answers from a list,
and a channel that performs a cluster's commands as their docstrings say. Each test sets the time."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.budget import Holder
from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import Call, CallObserver
from meshlib._core.call_record import CallRecord
from meshlib._core.cluster import ClusterMachine
from meshlib._core.cluster_policy import ClusterPolicy
from meshlib._core.cluster_steps import ClusterCommands
from meshlib._core.commands import (
    CallCommand,
    CancelAttempt,
    Finish,
    StartAttempt,
)
from meshlib._core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from meshlib._core.dispatch import dispatch
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.events import (
    AttemptEnded,
    AttemptStarted,
    Broken,
    CallEvent,
    ChannelEvent,
    Ejected,
    NotRetried,
    PickQueued,
    Retrying,
)
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.hedged import machine
from meshlib._core.host import HostEntry
from meshlib._core.hosts import HostSet
from meshlib._core.limits.breaker import Breaker
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.policy import HedgingPolicy, Plan, RetryBudget, RetryPolicy
from meshlib._core.serial import ALONE, Threads
from meshlib._core.stages import STAGES
from meshlib._core.status import Outcome

METHOD = "/test.Service/Method"
UNAVAILABLE = Outcome("UNAVAILABLE", "gone")
REFUSED = Outcome("UNAVAILABLE", "failed to connect", refused=True)
CANCELLED = Outcome("CANCELLED", "by the application", local=True)


def plan(retry: RetryPolicy | HedgingPolicy | None = None) -> Plan:
    """The plan of a method with this policy alone."""
    if isinstance(retry, HedgingPolicy):
        return Plan(hedging=retry)
    return Plan(retry=retry)


def host(name: str) -> HostEntry:
    """A host without a connection."""
    return HostEntry(Endpoint(address=name))


def brief(commands: Iterable[CallCommand]) -> list[str]:
    """CallCommands as words: ``start 1 a first``, ``cancel 1``, ``finish 1 OK``."""
    return [_word(command) for command in commands]


def _word(command: CallCommand) -> str:
    if isinstance(command, StartAttempt):
        attempt = command.record
        return f"start {attempt.n} {attempt.host.endpoint.address} {attempt.why}"
    if isinstance(command, CancelAttempt):
        return f"cancel {command.n}"
    return f"finish {command.n} {command.outcome.code}"


class Draws(Random):
    """Deterministic randomness: every draw of a fraction is the same."""

    def __init__(self, fraction: float) -> None:
        super().__init__(0)
        self.fraction = fraction

    def random(self) -> float:
        return self.fraction


class ScriptedCluster:
    """A cluster for tests of calls that answers picks from a list.

    Args:
        picks: the answers in order: hosts, outcomes, or None for "wait"; the last one repeats.
        places: of the retry budget.
        ready: number of hosts reported as ready.
        fraction: returned by every random draw.
        throttling: of retries.
        max_retries: of the circuit breaker.
    """

    def __init__(
        self,
        *picks: HostEntry | Outcome | None,
        places: int = 100,
        ready: int = 3,
        fraction: float = 0.5,
        throttling: RetryThrottling | None = None,
        max_retries: int | None = None,
    ) -> None:
        self.name = "svc-a"
        self.hosts = HostSet()
        self.picks = deque(picks)
        self.places = places
        self.ready = ready
        self.rng = Draws(fraction)
        self.throttle = None if throttling is None else Throttle(throttling)
        self.retries = self
        self.breaker = Breaker(CircuitBreaker(max_retries=max_retries))
        self.panic: tuple[int, ...] = ()
        self.ejects: dict[HostEntry, str] = {}
        """Hosts that the next failure ejects, with the reason."""
        self.closed = False
        self.held = 0
        self.refusals = 0
        self.reports: list[tuple[str, str]] = []
        self.notes: list[ChannelEvent] = []
        self.lost_hosts: set[HostEntry] = set()
        self.waiting: set[Call] = set()
        self.resting: set[Call] = set()
        self.in_flight: Counter[HostEntry] = Counter()

    def pick(self, call: Call, now: float, *, wait: bool = True) -> HostEntry | Outcome | None:
        self.leave(call)
        chosen = self.picks.popleft() if len(self.picks) > 1 else self.picks[0]
        if isinstance(chosen, HostEntry):
            self.in_flight[chosen] += 1
            call.picked = chosen
        elif chosen is None and wait:
            self.waiting.add(call)
        return chosen

    def release_pick(self, call: Call) -> None:
        if call.picked is not None:
            self.in_flight[call.picked] -= 1
            call.picked = None

    def report(
        self, host: HostEntry, outcome: Outcome, seconds: float, now: float, attempt: AttemptRecord | None = None
    ) -> str:
        self.in_flight[host] -= 1
        if attempt is not None:
            attempt.seconds = seconds
        self.reports.append((host.endpoint.address, outcome.code))
        return "" if outcome.code == "OK" else self.ejects.pop(host, "")

    def leave(self, call: Call) -> None:
        self.waiting.discard(call)
        self.resting.discard(call)

    def throttled(self, *, ok: bool) -> bool:
        if self.throttle is None:
            return False
        if ok:
            self.throttle.succeeded()
        else:
            self.throttle.failed()
        return not self.throttle.allows

    def acquire(self, holder: Holder, resting: Call | None = None) -> bool | None:
        if self.held >= self.breaker.max_retries:
            return None
        if resting is not None:
            self.resting.add(resting)
        if self.held >= self.places:
            return False
        self.held += 1
        holder.holds = True
        return True

    def force(self, holder: Holder) -> bool:
        if self.held >= self.breaker.max_retries:
            return False
        self.held += 1
        holder.holds = True
        return True

    def release(self, holder: Holder) -> None:
        self.held -= 1
        holder.holds = False
        assert self.held >= 0

    def refuse(self, why: str, *, now: float) -> str:
        self.refusals += 1
        return why

    def lost(self, host: HostEntry, *, since: float, cut: bool, now: float) -> bool:
        return host in self.lost_hosts

    def note(self, event: ChannelEvent) -> None:
        self.notes.append(event)

    def situation(self) -> str:
        return "no endpoint is ready"


class Ear:
    """Records every event of calls and channels."""

    def __init__(self) -> None:
        self.calls: list[CallEvent] = []
        self.metadata: tuple[tuple[str, str], ...] = ()
        """Added to each attempt."""
        self.channel: list[ChannelEvent] = []

    every_event = True

    def on_attempt_started(self, call: CallRecord, event: AttemptStarted) -> tuple[tuple[str, str], ...]:
        self.calls.append(event)
        return self.metadata

    def on_call_event(self, call: CallRecord, event: CallEvent) -> None:
        self.calls.append(event)

    def on_channel_event(self, event: ChannelEvent) -> None:
        self.channel.append(event)

    def heard(self, kind: type[ChannelEvent]) -> list[Any]:
        return [event for event in self.channel if isinstance(event, kind)]


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
    """What a shell does for a cluster, recorded in a :class:`Channel`."""

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


def ended(commands: Sequence[CallCommand]) -> Outcome:
    """The outcome of the one Finish among commands."""
    finishes = [command for command in commands if isinstance(command, Finish)]
    assert len(finishes) == 1, commands
    return finishes[0].outcome


Moves = dict[str, tuple[int, Callable[[Random], tuple[Any, ...]]]]
"""Rules of a state machine by name, with a weight and a strategy for their arguments."""


def walk(machine: Any, moves: Moves, *, steps: int, rng: Random) -> None:
    """Take an initialised state machine through many steps, and run its checks after each.

    Hypothesis tries short and strange stories, and shrinks failures; this one goes deep.
    """
    names, weights = list(moves), [weight for weight, _ in moves.values()]
    for name in rng.choices(names, weights, k=steps):
        getattr(machine, name)(*moves[name][1](rng))
        machine.check()
    machine.teardown()


def assert_path(events: Sequence[CallEvent]) -> None:
    """The events of one call are a path through the table of stages: each attempt goes down it in order, and the steps
    after an attempt begin above it."""
    order = {stage.name: place for place, stage in enumerate(STAGES)}
    lowest: dict[int, int] = {}
    waited = -1
    for event in events:
        place = order[event.stage]
        if isinstance(event, PickQueued):
            assert waited < 0, events
            waited = place
        elif isinstance(event, AttemptStarted):
            assert event.n == len(lowest) + 1, events
            assert waited < place, events
            waited = -1
            lowest[event.n] = place
        elif isinstance(event, Broken):
            assert waited < place, events
            waited = -1
        elif isinstance(event, AttemptEnded):
            assert lowest[event.n] < place, events
            lowest[event.n] = place
        else:
            assert isinstance(event, Ejected | Retrying | NotRetried)
            assert place < lowest[event.n], events
