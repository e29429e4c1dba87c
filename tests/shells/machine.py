"""The machines alone, performing a script: no shell, no thread, no event loop. The reference for the shells.

A queue of work due now, a heap of work due later, and the commands of :mod:`meshlib._core.commands` performed as
their docstrings say, as briefly as possible.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

from tests.shells.machine_call import Calling
from tests.shells.network import CLOSED, Flight, Network
from tests.shells.observing import look, settings
from tests.shells.script import EPOCH, Script, tick
from tests.shells.trace import Entry, Trace

from meshlib._core.cluster import ClusterMachine
from meshlib._core.cluster_steps import ClusterCommands
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.refresh import Refresh
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.dispatch import dispatch
from meshlib._core.endpoint import Resolution
from meshlib._core.host import HostEntry
from meshlib.telemetry._channel import Telemetry

__all__ = ["run"]


def run(script: Script) -> list[Entry]:
    """Return the trace of ``script``."""
    return World(script).run()


class World:
    """One channel and its callers."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.now = EPOCH
        self._soon: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.trace = Trace(self.clock)
        self.network = Network(script, self.trace, self.clock)
        given = settings(self.network)
        listener, cluster = given.config.listener, given.config.cluster
        self.telemetry = Telemetry(listener.target, tracer_provider=given.tracer_provider)
        self.methods = listener.methods
        self.cluster = ClusterMachine(
            listener.target.text, cluster.policy, rng=Random(script.seed), attention=self.attention
        )
        self.refresh = Refresh(rng=Random(script.seed), floor=DnsPolicy().min_ttl)
        self.asked_at: float | None = None
        self.flights: dict[Any, list[tuple[Flight, Callable[[], None]]]] = {}
        self._token: object = None
        self._ports = Ports(self)
        self._asked = self._begun = False

    def clock(self) -> float:
        return self.now

    def soon(self, step: Callable[[], None]) -> None:
        self._soon.append(step)

    def at(self, moment: float, step: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._later, (tick(moment), self._count, step))

    def run(self) -> list[Entry]:
        for caller in self.script.callers:
            self.at(caller.at, Calling(self, caller).begin)
        for moment in self.script.looks:
            self.at(moment, self.look)
        self.at(self.script.close_at, self.close)
        while self._soon or self._later:
            if not self._soon:
                self.now = max(self.now, self._later[0][0])
                while self._later and self._later[0][0] <= self.now:
                    self._soon.append(heapq.heappop(self._later)[2])
            self._soon.popleft()()
        return self.trace.canonical(self.script.close_at)

    # The channel.

    def start(self) -> None:
        """The first call starts the control plane."""
        if not self._begun:
            self._begun = True
            self.soon(self.step)
            self.soon(self.ask)

    def attention(self) -> None:
        if not self._asked and self._begun:
            self._asked = True
            self.soon(self.step)

    def step(self) -> None:
        self._asked = False
        self.perform(self.cluster.on_timer(now=self.now))

    def perform(self, commands: Iterable[Any]) -> None:
        pending = deque(commands)
        while pending:
            pending.extend(dispatch(pending.popleft(), self._ports))
        self.arm()

    def arm(self) -> None:
        due = self.cluster.next_timer()
        self._token = token = object()
        if due is not None:
            self.at(due, lambda: self.timer() if token is self._token else None)

    def timer(self) -> None:
        if self.cluster.look(now=self.now):
            self.arm()
        else:
            self.step()

    def ask(self) -> None:
        """Begin a resolution if it is due, else wait until it is."""
        due = self.refresh.next_timer()
        if due is None or self.cluster.closed:
            return
        if due > self.now:
            self.at(due, self.ask)
            return
        self.asked_at = self.now
        self.refresh.begin(now=self.now)
        self.network.questions += 1
        answer = self.script.naming(self.now)
        self.at(self.now + self.script.lookup_seconds(self.network.questions), partial(self.answered, answer))

    def answered(self, answer: Any) -> None:
        if self.cluster.closed:
            return
        if answer.failure:
            news: Any = self.refresh.on_failure(ResolveError(answer.failure), now=self.now)
        else:
            resolution = Resolution(endpoints=answer.endpoints, ttl=answer.ttl)
            news = self.refresh.on_answer(resolution, now=self.now)
        if isinstance(news, Resolution):
            self.perform(self.cluster.on_resolved(news, now=self.now))
        elif news is not None:
            self.perform(self.cluster.on_resolution_failed(str(news), now=self.now))
        self.soon(self.ask)

    def look(self) -> None:
        """Record what ``channel.mesh.snapshot()`` would show."""
        if not self.cluster.closed:
            cluster = self.cluster if self._begun else None
            look(self.trace, cluster, self.asked_at, self.refresh.error, now=self.now)

    def close(self) -> None:
        self.look()
        self.perform(self.cluster.close(now=self.now))

    def shut(self, link: Any) -> None:
        self.network.closed(link)
        for flight, landed in self.flights.pop(link, ()):
            if self.network.cancel(flight, CLOSED):
                self.at(flight.ends, landed)


class Ports:
    """The operations of a shell for the cluster, in the scripted world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def open(self, host: HostEntry) -> ClusterCommands:
        """A connection of the network, which begins to connect."""
        link = self._world.network.open(host.endpoint.address)
        link.state(True)
        return self._world.cluster.opened(host, link, now=self._world.now)

    def close(self, host: HostEntry, subchannel: Any) -> None:
        """End it, and the attempts on it."""
        self._world.shut(subchannel)

    def diagnose(self, host: HostEntry, subchannel: Any) -> None:
        """The script has no reasons."""

    def rebuild(self) -> ClusterCommands:
        """At once."""
        return self._world.cluster.rebuild(now=self._world.now)

    def wake(self, calls: tuple[Any, ...]) -> None:
        """Wake each."""
        for call in calls:
            call.wake()

    def state_changed(self, state: int) -> None:
        """No caller watches it."""

    def request_reresolution(self) -> None:
        """Resolve again, subject to the minimum interval."""
        self._world.refresh.hurry(now=self._world.now)
        self._world.soon(self._world.ask)
