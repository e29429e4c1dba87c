"""The machines alone, performing a script: no shell, no thread, no event loop. What the shells are measured by.

A queue of what is due now, a heap of what is due later, and the commands of :mod:`meshlib._core.commands` performed as
their docstrings say, in as few words as possible.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from random import Random
from typing import Any, final

from tests.shells.network import CANCELLED, CLOSED, Flight, Network
from tests.shells.observing import Failed, look, settings
from tests.shells.script import EPOCH, Caller, Script, tick
from tests.shells.trace import Entry, Trace

from meshlib._adapt import outcomes
from meshlib._core.call import Call, State
from meshlib._core.cluster import Cluster
from meshlib._core.commands import CancelAttempt, Close, Finish, Lookup, Open, Rebuild, StartAttempt, Wake
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.refresh import Refresh
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Resolution
from meshlib._core.status import OK, Outcome, local
from meshlib._core.view import CallMesh
from meshlib.telemetry import Telemetry

__all__ = ["run"]


def run(script: Script) -> list[Entry]:
    """The trace of ``script``."""
    return _World(script).run()


class _World:
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
        self.telemetry = Telemetry(given.target, tracer_provider=given.tracer_provider)
        self.methods = given.methods
        self.cluster = Cluster(
            given.target.text,
            balancer=given.balancer,
            rng=Random(script.seed),
            lock=nullcontext(),
            budget=script.budget,
            attention=self.attention,
        )
        self.refresh = Refresh(rng=Random(script.seed), floor=DnsPolicy().min_ttl)
        self.asked_at: float | None = None
        self.flights: dict[Any, list[tuple[Flight, Callable[[], None]]]] = {}
        self._token: object = None
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
            self.at(caller.at, _Calling(self, caller).begin)
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
            command = pending.popleft()
            if isinstance(command, Open):
                link = self.network.open(command.host.endpoint.address)
                pending.extend(self.cluster.opened(command.host, link, now=self.now))
            elif isinstance(command, Close):
                self.shut(command.host.subchannel)
            elif isinstance(command, Rebuild):
                pending.extend(self.cluster.rebuild(now=self.now))
            elif isinstance(command, Wake):
                for call in command.calls:
                    call.wake()
            elif isinstance(command, Lookup):
                self.refresh.hurry(now=self.now)
                self.soon(self.ask)
        self.arm()

    def arm(self) -> None:
        due = self.cluster.next_timer()
        self._token = token = object()
        if due is not None:
            self.at(due, lambda: self.step() if token is self._token else None)

    def ask(self) -> None:
        """Puts the question if it is due, else waits until it is."""
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
        """What ``channel.mesh.snapshot()`` would show."""
        if not self.cluster.closed:
            look(self.trace, self.cluster if self._begun else None, self.asked_at, self.refresh.error)

    def close(self) -> None:
        self.look()
        self.perform(self.cluster.close(now=self.now))

    def shut(self, link: Any) -> None:
        self.network.closed(link)
        for flight, landed in self.flights.pop(link, ()):
            if self.network.cancel(flight, CLOSED):
                self.at(flight.ends, landed)


@final
class _Calling:
    """One caller and its call."""

    def __init__(self, world: _World, caller: Caller) -> None:
        self.world = world
        self.caller = caller
        self.flights: dict[int, Flight] = {}
        self.call: Call = None  # type: ignore[assignment]
        self.reading: Any = None
        self.token: object = None

    def begin(self) -> None:
        world, caller = self.world, self.caller
        if world.cluster.closed:
            world.trace.result(caller.n, "closed", "", None)
            return
        plan = world.methods.plan(caller.method)
        streaming = world.script.kind == "stream"
        timeout = caller.timeout
        if timeout is None:
            timeout = plan.stream_timeout if streaming else plan.timeout
        self.call = Call(
            world.cluster,
            plan,
            caller.method,
            deadline=None if timeout is None else world.now + timeout,
            wait_for_ready=plan.wait_for_ready if caller.wait_for_ready is None else caller.wait_for_ready,
            streaming=streaming,
        )
        world.telemetry.started(self.call, ())
        self.call.waker = lambda: world.soon(partial(self.feed, self.call.on_endpoints))
        world.start()
        if caller.cancel_at is not None:
            world.at(caller.cancel_at, self.cancel)
        self.perform(self.call.begin(now=world.now))

    def cancel(self) -> None:
        if self.call.state is not State.DONE:
            self.perform(self.call.on_cancel(local("CANCELLED", CANCELLED), now=self.world.now))

    def feed(self, step: Callable[..., Iterable[Any]]) -> None:
        self.perform(step(now=self.world.now))

    def due(self, token: object) -> None:
        if token is self.token:
            self.perform(self.call.on_timer(now=self.world.now))

    def perform(self, commands: Iterable[Any]) -> None:
        for command in commands:
            if isinstance(command, StartAttempt):
                self.start(command)
            elif isinstance(command, CancelAttempt):
                self.stop(command.n)
            else:
                assert isinstance(command, Finish)
                self.finish(command.outcome, command.n)
        due = self.call.next_timer()
        self.token = token = object()
        if due is not None:
            self.world.at(due, lambda: self.due(token))

    def start(self, attempt: StartAttempt) -> None:
        world, link = self.world, attempt.host.subchannel
        previous = str(attempt.previous) if attempt.previous else None
        flight = world.network.send(self.caller.method, link, attempt.timeout, previous)  # type: ignore[arg-type]
        self.flights[attempt.n] = flight
        landed = partial(self.landed, attempt.n)
        world.flights.setdefault(link, []).append((flight, landed))
        if flight.ends < float("inf"):
            world.at(flight.ends, landed)
        for at, text in flight.messages:
            world.at(at, partial(self.arrived, attempt.n, text))

    def stop(self, n: int) -> None:
        flight = self.flights[n]
        if self.world.network.cancel(flight):
            self.world.at(flight.ends, partial(self.landed, n))

    def arrived(self, n: int, text: str) -> None:
        """A message of a stream; the first commits the call."""
        flight = self.flights[n]
        if self.call.state is State.DONE or flight.code == "CANCELLED":
            return
        self.perform(self.call.on_commit(n, "message", now=self.world.now))
        if self.call.committed == n:
            self.world.trace.add(self.caller.n, "message", text)

    def landed(self, n: int) -> None:
        flight = self.flights[n]
        if flight.over or flight.ends > self.world.now:
            return
        self.world.network.landed(flight)
        outcome = OK
        if flight.code != "OK":
            failed = Failed(flight)
            link: Any = self.call.attempts[n - 1].host.subchannel
            outcome = outcomes.failed(failed, f"ipv4:{link.host.address}", failed.trailing_metadata())
        self.perform(self.call.on_outcome(n, outcome, now=self.world.now))

    def finish(self, outcome: Outcome, n: int) -> None:
        world, call = self.world, self.call
        world.telemetry.ended(call, outcome, now=world.now)
        if outcome.code == "OK":
            text = "" if call.streaming else self.flights[n].message
        else:
            several = outcome.error is not None and len(call.attempts) > 1
            text = call.explain(outcome) if several else outcome.details
        alone = world.script.kind in ("blocking", "hedged") and self.caller.plain and outcome.code == "OK"
        world.trace.result(self.caller.n, outcome.code, text, None if alone else CallMesh(call, outcome))
