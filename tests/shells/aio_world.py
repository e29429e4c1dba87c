"""The unmodified shell for asyncio in a scripted world with its own clock, event loop and grpc.aio channels."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, final

import grpc
import grpc.aio
from tests.shells.aio_grpc import Channel
from tests.shells.baton import Baton, DeadlockError, SpinError
from tests.shells.loops import Loop
from tests.shells.network import Network
from tests.shells.observing import errorless, seen, settings
from tests.shells.primitives import Lock
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
    """Return the trace of ``script``."""
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
    """Replaces the clock of the shell."""

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
        """Cancel everything in progress after a failure."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            with suppress(AssertionError):
                self.loop.run_until_complete(asyncio.wait(tasks))

    async def main(self, shell: Shell) -> None:
        channel = shell.channel.Channel(settings(self.network), factory=partial(Channel, self.network, self.loop))
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

    # The application.

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
        await self.respond(caller, stub, b"request")

    async def upload(self, channel: Any, caller: Caller) -> None:
        stub = channel.stream_unary(caller.method, None, bytes.decode)
        await self.respond(caller, stub, self.requests(caller))

    async def requests(self, caller: Caller) -> AsyncIterator[bytes]:
        for seconds, size in caller.requests:
            await asyncio.sleep(seconds)
            yield bytes(size)

    async def respond(self, caller: Caller, stub: Any, request: Any) -> None:
        call = stub(request, timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
        self.watch(call, caller)
        await call.code()
        await self.result(call, caller)

    async def stream(self, channel: Any, caller: Caller) -> None:
        stub = channel.unary_stream(caller.method, None, bytes.decode)
        await self.read(caller, stub, b"request")

    async def chat(self, channel: Any, caller: Caller) -> None:
        stub = channel.stream_stream(caller.method, None, bytes.decode)
        await self.read(caller, stub, self.requests(caller))

    async def read(self, caller: Caller, stub: Any, request: Any) -> None:
        call = stub(request, timeout=caller.timeout, wait_for_ready=caller.wait_for_ready)
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
        assert ended == code, f"reading call {caller.n} ended with {ended}, and its code is {code}"

    def watch(self, call: Any, caller: Caller) -> None:
        self.callbacks[caller.n] = 0
        call.add_done_callback(lambda _: self.called_back(call, caller))
        if caller.cancel_at is not None:
            self.loop.call_at(caller.cancel_at, call.cancel)

    def called_back(self, call: Any, caller: Caller) -> None:
        """The end of a stream is recorded here: a reader may get it a moment later, from grpc."""
        self.callbacks[caller.n] += 1
        if self.script.streaming:
            self.loop.create_task(self.result(call, caller))

    async def result(self, call: Any, caller: Caller) -> None:
        code = await call.code()
        text = await call.details()
        if code is grpc.StatusCode.OK:
            text = "" if self.script.streaming else await call
        self.trace.result(caller.n, code.name, text, call.mesh)

    async def look(self, channel: Any) -> None:
        snapshot = channel.mesh.snapshot()
        if snapshot.state != "SHUTDOWN":
            seen(self.trace, snapshot, self.baton.now)

    async def end(self, channel: Any) -> None:
        await self.look(channel)
        await channel.close()
        await asyncio.sleep(1.0)
