"""The unmodified shell for threads in a scripted world with its own clock, locks, threads and grpc channels."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, final

import grpc
from tests.shells.baton import Baton
from tests.shells.loops import Loop
from tests.shells.network import Network
from tests.shells.observing import errorless, seen, settings
from tests.shells.primitives import Event, Thread
from tests.shells.script import Caller, Script
from tests.shells.sync_grpc import Channel, Poller
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
    """Return the trace of ``script``."""
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
    """Replaces the clock of the shell."""

    linger = 0.0

    def __init__(self, baton: Baton, seed: int) -> None:
        self._baton = baton
        self._seed = seed
        self.now = baton.time  # type: ignore[method-assign, misc]

    def rng(self) -> random.Random:
        return random.Random(self._seed)

    def ident(self) -> int:  # type: ignore[override]
        return id(self._baton.seat)

    def pause(self, turn: int) -> bool:
        raise AssertionError(f"{self._baton.seat.name} waits for a step of another thread, which nobody can be inside")

    def event(self) -> Event:
        return Event(self._baton)

    def spawn(self, target: Callable[[], None], name: str) -> Thread:
        thread = Thread(self._baton, target, name)
        self._baton.spawn(thread)
        return thread

    def control(self, target: Callable[[], None]) -> Thread:
        return self.spawn(target, "meshlib-control")

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
        channel = shell.channel.Channel(given, clock=self.clock, factory=partial(Channel, self.network, self.poller))
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

    # The application.

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
        self.respond(caller, stub, b"request")

    def upload(self, channel: Any, caller: Caller) -> None:
        stub = channel.stream_unary(caller.method, None, bytes.decode)
        self.respond(caller, stub, self.requests(caller))

    def requests(self, caller: Caller) -> Iterator[bytes]:
        for seconds, size in caller.requests:
            self.baton.block(self.baton.now + seconds, "the application to make a request")
            yield bytes(size)

    def respond(self, caller: Caller, stub: Any, request: Any) -> None:
        call = stub.future(request, timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
        self.watch(call, caller)
        call.code()
        self.result(call, caller)

    def stream(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_stream(caller.method, None, bytes.decode)
        self.read(caller, stub, b"request")

    def chat(self, channel: Any, caller: Caller) -> None:
        stub = channel.stream_stream(caller.method, None, bytes.decode)
        self.read(caller, stub, self.requests(caller))

    def read(self, caller: Caller, stub: Any, request: Any) -> None:
        call = stub(request, timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
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
        """The end of a stream is recorded here: a reader may get it a moment later, from grpc."""
        self.callbacks[caller.n] += 1
        if self.script.streaming:
            self.result(call, caller)

    def result(self, call: Any, caller: Caller) -> None:
        code = call.code()
        text = call.details()
        if code is grpc.StatusCode.OK:
            text = "" if self.script.streaming else call.result()
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
