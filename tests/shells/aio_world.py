"""The unmodified shell for asyncio in a scripted world: its clock, its event loop and its channels of grpc.aio are the
world's.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any, final

import grpc
import grpc.aio
from tests.shells.baton import Baton, DeadlockError, Lock, SpinError
from tests.shells.loops import Loop
from tests.shells.network import CLOSED, Flight, Network
from tests.shells.observing import errorless, seen, settings, trailing
from tests.shells.script import Caller, Script
from tests.shells.trace import Entry, Trace

from meshlib._aio.clock import Clock

__all__ = ["Shell", "run"]


@final
class Shell:
    """The modules of the shell for asyncio that a world runs: the real ones, or with one of them changed.

    Args:
        channel: the module ``meshlib._aio.channel``.
        control: the module ``meshlib._aio.control``.
    """

    def __init__(self, channel: Any, control: Any) -> None:
        self.channel = channel
        self.control = control


def run(script: Script, shell: Shell) -> list[Entry]:
    """The trace of ``script``."""
    world = _World(script)
    before = shell.control._process
    shell.control._process = shell.control.Process(_Clock(world.baton, world.loop, script.seed))
    try:
        with errorless():
            return world.run(shell)
    finally:
        shell.control._process = before


@final
class _Clock(Clock):
    """The seam of the shell."""

    def __init__(self, baton: Baton, loop: Loop, seed: int) -> None:
        self._baton = baton
        self._loop = loop
        self._seed = seed

    def rng(self) -> random.Random:
        return random.Random(self._seed)

    def lock(self) -> Lock:
        return Lock(self._baton)

    def loop(self) -> Loop:
        return self._loop


class _World:
    """One channel and its callers."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.baton = Baton()
        self.loop = Loop(self.baton)
        self.trace = Trace(self.baton.time)
        self.network = Network(script, self.trace, self.baton.time)
        self.callbacks: dict[int, int] = {}
        self.errors: list[Any] = []

    def run(self, shell: Shell) -> list[Entry]:
        loop = self.loop
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        try:
            loop.run_until_complete(self.main(shell))
        except DeadlockError as deadlock:
            tasks = "\n  ".join(repr(task) for task in asyncio.all_tasks(loop))
            raise DeadlockError(f"{deadlock}\n  {tasks}") from None
        except SpinError as error:
            raise AssertionError(repr(error)) from error
        finally:
            self.cancel_all()
            loop.close()
        assert not self.errors, self.errors
        assert set(self.callbacks.values()) <= {1}, f"done-callbacks by call: {self.callbacks}"
        return self.trace.canonical(self.script.close_at)

    def cancel_all(self) -> None:
        """After a failure: what is under way unwinds."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            with suppress(AssertionError):
                self.loop.run_until_complete(asyncio.wait(tasks))

    async def main(self, shell: Shell) -> None:
        channel = shell.channel.Channel(settings(self.network), factory=partial(Channel, self))
        tasks = [self.at(caller.at, partial(self.call, channel, caller)) for caller in self.script.callers]
        tasks += [self.at(moment, partial(self.look, channel)) for moment in self.script.looks]
        tasks.append(self.at(self.script.close_at, partial(self.end, channel)))
        await asyncio.gather(*tasks)

    def at(self, moment: float, step: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        async def wait() -> None:
            time = self.loop.create_future()
            self.loop.call_at(moment, time.set_result, None)
            await time
            await step()

        return self.loop.create_task(wait())

    # What the application does.

    async def call(self, channel: Any, caller: Caller) -> None:
        try:
            await getattr(self, self.script.kind)(channel, caller)
        except grpc.aio.UsageError as error:
            if "closed" not in str(error):
                raise
            self.trace.result(caller.n, "closed", "", None)

    async def blocking(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_unary(caller.method, None, bytes.decode)
        call = stub(b"request", timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
        try:
            text = await call
        except grpc.aio.AioRpcError as error:
            found: Any = error
            self.trace.result(caller.n, found.code().name, found.details(), found.mesh)
        except asyncio.CancelledError:
            self.trace.result(caller.n, "CANCELLED", await call.details(), call.mesh)
        else:
            self.trace.result(caller.n, "OK", text, None if caller.plain else call.mesh)

    hedged = blocking

    async def future(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_unary(caller.method, None, bytes.decode)
        call = stub(b"request", timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
        self.watch(call, caller)
        await call.code()
        await self.result(call, caller)

    async def stream(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_stream(caller.method, None, bytes.decode)
        call = stub(b"request", timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
        self.watch(call, caller)
        ended = "OK"
        try:
            if caller.plain:
                async for text in call:
                    self.trace.add(caller.n, "message", text)
            else:
                while (text := await call.read()) is not grpc.aio.EOF:
                    self.trace.add(caller.n, "message", text)
        except grpc.aio.AioRpcError as error:
            ended = error.code().name
        except asyncio.CancelledError:
            ended = "CANCELLED"
        code = (await call.code()).name
        assert ended == code, f"reading call {caller.n} ended {ended}, and its code is {code}"

    def watch(self, call: Any, caller: Caller) -> None:
        self.callbacks[caller.n] = 0
        call.add_done_callback(lambda _: self.called_back(call, caller))
        if caller.cancel_at is not None:
            self.loop.call_at(caller.cancel_at, call.cancel)

    def called_back(self, call: Any, caller: Caller) -> None:
        """The end of a stream is told here: whoever reads it may hear a moment later, from grpc."""
        self.callbacks[caller.n] += 1
        if self.script.kind == "stream":
            self.loop.create_task(self.result(call, caller))

    async def result(self, call: Any, caller: Caller) -> None:
        code = await call.code()
        text = await call.details()
        if code is grpc.StatusCode.OK:
            text = await call if self.script.kind == "future" else ""
        self.trace.result(caller.n, code.name, text, call.mesh)

    async def look(self, channel: Any) -> None:
        snapshot = channel.mesh.snapshot()
        if snapshot.state != "SHUTDOWN":
            seen(self.trace, snapshot, self.baton.now)

    async def end(self, channel: Any) -> None:
        await self.look(channel)
        await channel.close()
        await asyncio.sleep(1.0)


@final
class Channel:
    """A channel to one scripted host: what the shell uses of ``grpc.aio.Channel``."""

    def __init__(
        self, world: _World, target: str, options: Any, credentials: Any, compression: Any, interceptors: Any
    ) -> None:
        self.world = world
        self.link = world.network.open(target.removeprefix("ipv4:"))
        self.calls: list[Call] = []
        self._channel = self  # where grpc.aio's own keeps what knows the connectivity
        self._open = True

    def check_connectivity_state(self, connect: bool) -> int:
        return self.link.state(connect)

    def unary_unary(self, method: str, serializer: Any, deserializer: Any, registered: bool) -> Callable[..., "Call"]:
        def call(request: bytes, *, timeout: Any, metadata: Any, credentials: Any, compression: Any) -> Call:
            assert not self.world.baton.seat.holds, "a lock is held while grpc.aio starts a call"
            if not self._open:
                raise grpc.aio.UsageError("Channel is closed.")
            previous = dict(metadata or ()).get("grpc-previous-rpc-attempts")
            made = Call(self.world, self.world.network.send(method, self.link, timeout, previous), deserializer)
            self.calls.append(made)
            return made

        return call

    unary_stream = unary_unary

    async def close(self, grace: float | None = None) -> None:
        if self._open:
            self._open = False
            self.world.network.closed(self.link)
            for call in self.calls:
                call.cancel(CLOSED)


@final
class Call:
    """One attempt under way: what the shell uses of grpc.aio's call objects."""

    def __init__(self, world: _World, flight: Flight, deserializer: Any) -> None:
        self._world = world
        self._loop = world.loop
        self._flight = flight
        self._deserializer = deserializer
        self._callbacks: list[Callable[[Any], None]] = []
        self._news = self._loop.create_future()
        self._cancelled = False
        for at, _ in flight.messages:
            self._loop.call_at(at, self._tell_readers)
        self._arm()

    def _arm(self) -> None:
        if self._flight.ends < float("inf"):
            self._loop.call_at(self._flight.ends, self._land)

    def cancel(self, details: str = "Locally cancelled by application!") -> bool:
        assert not self._world.baton.seat.holds, "a lock is held while grpc.aio cancels a call"
        if not self._world.network.cancel(self._flight, details):
            return False
        self._cancelled = True
        self._arm()
        return True

    def done(self) -> bool:
        return self._flight.over or self._cancelled

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._flight.over:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def code(self) -> grpc.StatusCode:
        await self._ended()
        return grpc.StatusCode[self._flight.code]

    async def details(self) -> str:
        await self._ended()
        return "" if self._flight.code == "OK" else self._flight.details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        await self._ended()
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._ended()
        return grpc.aio.Metadata(*trailing(self._flight))

    async def debug_error_string(self) -> str:
        await self._ended()
        return ""

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._ended().__await__()
        self._raise_for_status()
        return self._deserializer(self._flight.message.encode())

    async def read(self) -> Any:
        flight = self._flight
        while True:
            if flight.messages and flight.messages[0][0] <= self._world.baton.now:
                return self._deserializer(flight.messages.pop(0)[1].encode())
            if flight.over:
                flight.asked_after_end()
                self._raise_for_status()
                return grpc.aio.EOF
            await asyncio.shield(self._news)

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def _ended(self) -> None:
        while not self._flight.over:
            await asyncio.shield(self._news)

    def _raise_for_status(self) -> None:
        flight = self._flight
        if self._cancelled:
            raise asyncio.CancelledError
        if flight.code != "OK":
            metadata = grpc.aio.Metadata(), grpc.aio.Metadata(*trailing(flight))
            raise grpc.aio.AioRpcError(grpc.StatusCode[flight.code], *metadata, details=flight.details)

    def _tell_readers(self) -> None:
        news, self._news = self._news, self._loop.create_future()
        news.set_result(None)

    def _land(self) -> None:
        flight = self._flight
        if flight.over or flight.ends > self._world.baton.now:
            return
        self._world.network.landed(flight)
        self._tell_readers()  # they hear it in the next turn of the loop, and who listens hears it now
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
