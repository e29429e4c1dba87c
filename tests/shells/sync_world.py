"""The unmodified shell for threads in a scripted world: its clock, its locks, its threads and its grpc channels are the
world's.
"""

import heapq
import random
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, final

import grpc
from tests.shells.baton import Baton, Event, Lock, Thread
from tests.shells.loops import Loop
from tests.shells.network import CLOSED, Flight, Network
from tests.shells.observing import Failed, errorless, seen, settings, trailing
from tests.shells.script import Caller, Script
from tests.shells.trace import Entry, Trace

from meshlib._sync.clock import Clock

__all__ = ["Shell", "run"]


@final
class Shell:
    """The modules of the shell for threads that a world runs: the real ones, or with one of them changed.

    Args:
        channel: the module ``meshlib._sync.channel``.
        control: the module ``meshlib._sync.control``.
    """

    def __init__(self, channel: Any, control: Any) -> None:
        self.channel = channel
        self.control = control


def run(script: Script, shell: Shell) -> list[Entry]:
    """The trace of ``script``."""
    world = _World(script)
    before = shell.control._process
    shell.control._process = shell.control.Process(world.clock)
    try:
        with errorless():
            return world.run(shell)
    finally:
        shell.control._process = before


@final
class _Clock(Clock):
    """The seam of the shell."""

    def __init__(self, baton: Baton, seed: int) -> None:
        self._baton = baton
        self._seed = seed
        self.now = baton.time  # type: ignore[method-assign, misc]

    def rng(self) -> random.Random:
        return random.Random(self._seed)

    def lock(self) -> Lock:
        return Lock(self._baton)

    def event(self) -> Event:
        return Event(self._baton)

    def spawn(self, target: Callable[[], None], name: str) -> Thread:
        thread = Thread(self._baton, target, name)
        self._baton.spawn(thread)
        return thread

    def loop(self) -> Loop:
        return Loop(self._baton)


class _World:
    """One channel and its callers."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.baton = Baton()
        self.clock = _Clock(self.baton, script.seed)
        self.trace = Trace(self.baton.time)
        self.network = Network(script, self.trace, self.baton.time)
        self.poller = Poller(self.baton)
        self.callbacks: dict[int, int] = {}

    def run(self, shell: Shell) -> list[Entry]:
        given = settings(self.network)
        channel = shell.channel.Channel(given, clock=self.clock, factory=partial(Channel, self))
        try:
            for caller in self.script.callers:
                self.spawn(f"call {caller.n}", partial(self.call, channel, caller), caller.at)
            for moment in self.script.looks:
                self.spawn("a look", partial(self.look, channel), moment)
            self.spawn("the close", partial(self.end, channel), self.script.close_at)
        finally:
            self.baton.close()
        assert set(self.callbacks.values()) <= {1}, f"done-callbacks by call: {self.callbacks}"
        return self.trace.canonical(self.script.close_at)

    def spawn(self, name: str, step: Callable[[], None], moment: float) -> None:
        def wait() -> None:
            self.baton.block(moment, "its time")
            step()

        self.clock.spawn(wait, name)

    # What the application does.

    def call(self, channel: Any, caller: Caller) -> None:
        try:
            getattr(self, self.script.kind)(channel, caller)
        except ValueError as error:
            if "closed" not in str(error).lower():
                raise
            self.trace.result(caller.n, "closed", "", None)

    def blocking(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_unary(caller.method, None, bytes.decode)
        arguments = {"timeout": caller.timeout, "wait_for_ready": caller.wait_for_ready}
        try:
            if caller.plain:
                text, mesh = stub(b"request", **arguments), None
            else:
                text, call = stub.with_call(b"request", **arguments)
                mesh = call.mesh
        except grpc.RpcError as error:
            found: Any = error
            self.trace.result(caller.n, found.code().name, found.details(), found.mesh)
        else:
            self.trace.result(caller.n, "OK", text, mesh)

    hedged = blocking

    def future(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_unary(caller.method, None, bytes.decode)
        call = stub.future(b"request", timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
        self.watch(call, caller)
        call.code()
        self.result(call, caller)

    def stream(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_stream(caller.method, None, bytes.decode)
        call = stub(b"request", timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
        self.watch(call, caller)
        ended = grpc.StatusCode.OK
        try:
            for text in call:
                self.trace.add(caller.n, "message", text)
        except grpc.RpcError as error:
            if error is not call:
                raise
            ended = call.code()
        assert ended is call.code(), f"iterating call {caller.n} ended {ended}, and its code is {call.code()}"

    def watch(self, call: Any, caller: Caller) -> None:
        self.callbacks[caller.n] = 0
        call.add_done_callback(lambda _: self.called_back(call, caller))
        if caller.cancel_at is not None:
            self.spawn(f"the cancel of call {caller.n}", call.cancel, caller.cancel_at)

    def called_back(self, call: Any, caller: Caller) -> None:
        """The end of a stream is told here: whoever reads it may hear a moment later, from grpc."""
        self.callbacks[caller.n] += 1
        if self.script.kind == "stream":
            self.result(call, caller)

    def result(self, call: Any, caller: Caller) -> None:
        code = call.code()
        text = call.details()
        if code is grpc.StatusCode.OK:
            text = call.result() if self.script.kind == "future" else ""
        self.trace.result(caller.n, code.name, text, call.mesh)

    def look(self, channel: Any) -> None:
        snapshot = channel.mesh.snapshot()
        if snapshot.state != "SHUTDOWN":
            seen(self.trace, snapshot, self.baton.now)

    def end(self, channel: Any) -> None:
        self.look(channel)
        channel.close()
        self.baton.block(self.baton.now + 1.0, "what is left to happen")
        self.poller.stop()


@final
class Poller:
    """The thread on which grpc delivers; who makes it wait makes everybody wait."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopped = False
        self._thread = Thread(baton, self._run, "grpc")
        baton.spawn(self._thread)

    def at(self, moment: float, step: Callable[[], None]) -> None:
        """Has ``step`` run then."""
        if moment < float("inf"):
            self._count += 1
            heapq.heappush(self._later, (moment, self._count, step))
            self._baton.wake(self._thread.seat)

    def stop(self) -> None:
        self._stopped = True
        self._baton.wake(self._thread.seat)

    def _run(self) -> None:
        baton = self._baton
        while not self._stopped:
            if self._later and self._later[0][0] <= baton.now:
                baton.others_first()
                step = heapq.heappop(self._later)[2]
                baton.seat.hurries = True
                step()
                baton.seat.hurries = False
            else:
                baton.block(self._later[0][0] if self._later else None, "something to deliver")


@final
class Channel:
    """A grpc channel to one scripted host: what the shell uses of ``grpc.Channel``."""

    def __init__(self, world: _World, target: str, options: Any, credentials: Any, compression: Any) -> None:
        self.world = world
        self.link = world.network.open(target.removeprefix("ipv4:"))
        self.calls: list[Call] = []
        self._channel = self  # where grpc's own keeps what knows the connectivity
        self._open = True

    def check_connectivity_state(self, connect: bool) -> int:
        return self.link.state(connect)

    def unary_unary(self, method: str, serializer: Any, deserializer: Any, registered: bool) -> "Multicallable":
        return Multicallable(self, method, deserializer)

    unary_stream = unary_unary

    def close(self) -> None:
        assert not self.world.baton.seat.holds, "a lock is held while grpc closes a channel"
        assert self.world.baton.seat is not self.world.poller._thread.seat, "a channel is closed on grpc's own thread"
        if self._open:
            self._open = False
            self.world.network.closed(self.link)
            for call in self.calls:
                call.end(CLOSED)

    def start(self, method: str, deserializer: Any, timeout: float | None, metadata: Any) -> "Call":
        """Sends an attempt."""
        assert not self.world.baton.seat.holds, "a lock is held while grpc starts a call"
        if not self._open:
            raise ValueError("Cannot invoke RPC on closed channel!")
        previous = dict(metadata or ()).get("grpc-previous-rpc-attempts")
        call = Call(self.world, self.world.network.send(method, self.link, timeout, previous), deserializer)
        self.calls.append(call)
        return call


@final
class Multicallable:
    """One method of a scripted host."""

    def __init__(self, channel: Channel, method: str, deserializer: Any) -> None:
        self._channel = channel
        self._method = method
        self._deserializer = deserializer

    def future(
        self, request: bytes, timeout: Any, metadata: Any, credentials: Any, wait_for_ready: Any, compression: Any
    ) -> "Call":
        assert wait_for_ready is None, "an attempt never waits for a connection"
        return self._channel.start(self._method, self._deserializer, timeout, metadata)

    def with_call(self, *arguments: Any) -> tuple[Any, "Call"]:
        call = self.future(*arguments)
        return call.result(), call

    def __call__(self, *arguments: Any) -> Any:
        call = self.future(*arguments)
        return call if self._channel.world.script.kind == "stream" else call.result()


@final
class Call(grpc.RpcError):
    """One attempt under way: what the shell uses of grpc's call object. Told about by the poller alone."""

    mesh: Any = None

    def __init__(self, world: _World, flight: Flight, deserializer: Any) -> None:
        super().__init__()
        self._world = world
        self._flight = flight
        self._deserializer = deserializer
        self._callbacks: list[Callable[[Any], None]] = []
        self._over = world.clock.event()
        self._news = world.clock.event()
        self._cancelled = False
        world.poller.at(flight.ends, self._land)

    def end(self, details: str) -> bool:
        """Ends it from here."""
        assert not self._world.baton.seat.holds, "a lock is held while grpc cancels a call"
        self._cancelled = self._world.network.cancel(self._flight, details) or self._cancelled
        self._world.poller.at(self._flight.ends, self._land)
        return self._cancelled

    def cancel(self) -> bool:
        return self.end("Locally cancelled by application!")

    def done(self) -> bool:
        return self._flight.over or self._cancelled

    def code(self) -> grpc.StatusCode:
        self._over.wait()
        return grpc.StatusCode[self._flight.code]

    def details(self) -> str:
        self._over.wait()
        return self._flight.details

    def initial_metadata(self) -> Any:
        self._over.wait()
        return ()

    def trailing_metadata(self) -> Any:
        self._over.wait()
        return trailing(self._flight)

    def debug_error_string(self) -> str:
        return ""

    def result(self) -> Any:
        self._over.wait()
        if self._flight.code != "OK":
            raise Failed(self._flight)
        return self._deserializer(self._flight.message.encode())

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if self._flight.over:
            fn(self)
        else:
            self._callbacks.append(fn)

    def __next__(self) -> Any:
        assert not self._world.baton.seat.holds, "a lock is held while a reader waits"
        flight, baton = self._flight, self._world.baton
        while True:
            if flight.messages and flight.messages[0][0] <= baton.now:
                return self._deserializer(flight.messages.pop(0)[1].encode())
            if flight.over:
                flight.asked_after_end()
                self._end()
            self._news = self._world.clock.event()
            self._news.wait(flight.messages[0][0] - baton.now if flight.messages else None)

    def _end(self) -> NoReturn:
        if self._flight.code == "OK":
            raise StopIteration
        raise self

    def _land(self) -> None:
        flight, world = self._flight, self._world
        if flight.over or flight.ends > world.baton.now:
            return
        world.network.landed(flight)
        self._over.set()
        self._news.set()
        if (flight.n + flight.k) % 2:
            self._tell()
        else:  # whoever reads may be quicker than who listens
            world.poller.at(world.baton.now, self._tell)

    def _tell(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for fn in callbacks:
            fn(self)
