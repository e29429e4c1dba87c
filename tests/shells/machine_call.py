"""One call of a world without a shell: the commands of its machine, performed."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, final

from tests.shells.network import CANCELLED, Flight
from tests.shells.observing import Failed
from tests.shells.script import Caller

from meshlib._adapt import outcomes
from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.replay import Replay
from meshlib._core.call import Call, State
from meshlib._core.dispatch import dispatch_call
from meshlib._core.hedged import machine
from meshlib._core.policy import RetryPolicy
from meshlib._core.status import OK, Outcome, local
from meshlib._core.view import CallMesh

if TYPE_CHECKING:
    from tests.shells.machine import World

__all__ = ["Calling"]

BUFFER = RetryPolicy().buffer_size
"""Bytes of requests buffered without a policy."""


@final
class Calling:
    """One caller and its call."""

    def __init__(self, world: "World", caller: Caller) -> None:
        self.world = world
        self.caller = caller
        self.flights: dict[int, Flight] = {}
        self.call: Call = None  # type: ignore[assignment]
        self.requests: Requests | None = None
        self.token: object = None

    def begin(self) -> None:
        world, caller = self.world, self.caller
        if world.cluster.closed:
            world.trace.result(caller.n, "closed", "", None)
            return
        plan = world.methods.plan(caller.method)
        streaming = world.script.streaming
        timeout = caller.timeout
        if timeout is None:
            timeout = plan.stream_timeout if streaming else plan.timeout
        self.call = machine(plan)(
            world.cluster,
            plan,
            caller.method,
            deadline=None if timeout is None else world.now + timeout,
            wait_for_ready=plan.wait_for_ready if caller.wait_for_ready is None else caller.wait_for_ready,
            streaming=streaming,
        )
        world.telemetry.call_started(self.call, (), world.now)
        if streaming:
            self.call.on_reading(now=world.now)
        self.call.waker = lambda: world.soon(partial(self.feed, self.call.on_endpoints))
        world.start()
        if world.script.uploading:
            policy = plan.retry or plan.hedging
            self.requests = Requests(self, BUFFER if policy is None else policy.buffer_size)
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
            dispatch_call(command, self)
        due = self.call.next_timer()
        self.token = token = object()
        if due is not None:
            self.world.at(due, lambda: self.due(token))

    def start_attempt(self, attempt: AttemptRecord) -> None:
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
        if self.requests is not None:
            world.soon(partial(self.requests.ask, attempt.n))

    def cancel_attempt(self, n: int) -> None:
        flight = self.flights[n]
        if self.world.network.cancel(flight):
            self.world.at(flight.ends, partial(self.landed, n))

    def arrived(self, n: int, text: str) -> None:
        """A message of a stream; the first commits the call."""
        flight = self.flights[n]
        if self.call.state is State.DONE or flight.code == "CANCELLED":
            return
        self.commit(n, "message")
        if self.call.committed == n:
            self.world.trace.add(self.caller.n, "message", text)
            self.call.on_message()
            self.call.on_reading(now=self.world.now)
            self.perform(())

    def commit(self, n: int, why: str) -> None:
        self.perform(self.call.on_commit(n, why, now=self.world.now))

    def landed(self, n: int) -> None:
        flight = self.flights[n]
        if flight.over or flight.ends > self.world.now:
            return
        self.world.network.landed(flight)
        outcome = OK
        if flight.code == "CANCELLED" and flight.details == CANCELLED:
            outcome = Outcome("CANCELLED", CANCELLED, local=True)
        elif flight.code != "OK":
            failed = Failed(flight)
            link: Any = self.call.attempts[n - 1].host.subchannel
            outcome = outcomes.failed(failed, f"ipv4:{link.host.address}", failed.trailing_metadata())
        self.perform(self.call.on_outcome(n, outcome, now=self.world.now))

    def finish(self, outcome: Outcome, n: int) -> None:
        world, call = self.world, self.call
        world.telemetry.call_ended(call, outcome, now=world.now)
        good = "" if call.streaming or outcome.code != "OK" else self.flights[n].message
        text = good if outcome.code == "OK" else call.details(outcome)
        alone = world.script.kind in ("blocking", "hedged") and self.caller.plain and outcome.code == "OK"
        world.trace.result(self.caller.n, outcome.code, text, None if alone else CallMesh(call, outcome))


@final
class Requests:
    """The requests of a call with a request stream: taken from the application once, sent by each attempt.

    At most one is awaited from the application at a time, for any attempt. Once the requests exceed the buffer, the
    attempt that has sent some and pulls another is committed.
    """

    def __init__(self, calling: Calling, limit: int) -> None:
        self._calling = calling
        self._world = calling.world
        self._replay = Replay(limit)
        self._index: dict[int, int] = {}
        self._waiting: list[int] = []
        self._pulling = False

    def ask(self, n: int) -> None:
        """Attempt ``n`` can send another request."""
        flight, replay = self._calling.flights[n], self._replay
        if flight.over or flight.code == "CANCELLED":
            return
        index = self._index.setdefault(n, 0)
        if index and not replay.replayable and not self._calling.call.committed:
            self._calling.commit(n, "buffer")
        self._next(n, index)

    def _next(self, n: int, index: int) -> None:
        flight, replay = self._calling.flights[n], self._replay
        if flight.over or flight.code == "CANCELLED":
            return
        if index < replay.end:
            self._take(n, index)
        elif replay.half_closed:
            self._world.network.took(flight, None)
        else:
            self._waiting.append(n)
            if not self._pulling:
                self._pulling = True
                rest = self._calling.caller.requests[replay.end :]
                if rest:
                    self._world.at(self._world.now + rest[0][0], partial(self._pulled, rest[0][1]))
                else:
                    self._pulled(None)

    def _pulled(self, size: int | None) -> None:
        self._pulling = False
        if size is None:
            self._replay.half_closed = True
        else:
            self._replay.append(bytes(size))
        waiting, self._waiting = self._waiting, []
        for n in waiting:
            self._next(n, self._index[n])

    def _take(self, n: int, index: int) -> None:
        message = self._replay[index]
        assert message is not None
        flight = self._calling.flights[n]
        self._world.network.took(flight, len(message))
        self._index[n] = index + 1
        self._world.at(self._world.now + flight.pace, partial(self.ask, n))
