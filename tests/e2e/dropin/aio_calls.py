"""One call through a `grpc.aio` channel, or its replacement, in every form, observed to its end."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from tests.e2e.dropin.observation import Failure, Observation, pairs, plain
from tests.e2e.dropin.scenarios import Caller, Requests, Scenario, Serves
from tests.e2e.dropin.service import METHODS, SCRIPT, has_none, has_one, scripted_server
from tests.e2e.dropin.subjects import Subject
from tests.waiting import aio_until

from meshlib.testing import Server

REQUEST = b"request"
_WAIT = 10.0  # seconds after which a wait fails
_LATER = 0.1  # seconds after the invocation at which a late server comes up
_QUICK_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100),)
_Raised = (Exception, asyncio.CancelledError)


@dataclass(frozen=True, slots=True)
class Kind:
    """A form of call: how requests are given, how responses are taken."""

    arity: str
    requests: str
    """`message`, or for a stream `async iterator`, `iterable`, `write`."""
    responses: str
    """`await`, or for a stream `iterate`, `read`."""

    def fits(self, scenario: Scenario) -> bool:
        """Whether this can happen to a call of this kind."""
        if self.responses == "await" and scenario.caller.reads_first:
            return False
        if self.requests in ("iterable", "write") and scenario.then is not Requests.END:
            return False
        if self.requests == "write" and "TypeError" in scenario.ends:
            return False  # grpc.aio's write waits forever for headers that were never sent
        if self.requests != "message" and scenario.expired:
            return False  # in grpc.aio a write races the deadline for the end of the call, and for its code
        return self.requests != "message" or not scenario.streams_requests

    def __str__(self) -> str:
        return f"{self.arity}.{self.requests}.{self.responses}".replace(" ", "-")


KINDS = (
    Kind("unary_unary", "message", "await"),
    Kind("unary_stream", "message", "iterate"),
    Kind("unary_stream", "message", "read"),
    Kind("stream_unary", "async iterator", "await"),
    Kind("stream_unary", "iterable", "await"),
    Kind("stream_unary", "write", "await"),
    Kind("stream_stream", "async iterator", "iterate"),
    Kind("stream_stream", "iterable", "read"),
    Kind("stream_stream", "write", "read"),
)


async def observe(kind: Kind, scenario: Scenario, subject: Subject) -> Observation:
    """Run `scenario` on a call of this kind on a new channel to a new server."""
    seen = await _observe(kind, scenario, subject)
    while (longer := scenario.with_more_time(kind.arity, seen)) is not None:
        scenario = longer
        seen = await _observe(kind, scenario, subject)
    return seen


async def _observe(kind: Kind, scenario: Scenario, subject: Subject) -> Observation:
    with scripted_server() as server:
        if scenario.serves is not Serves.ALWAYS:
            server.stop()
        async with subject.aio_insecure_channel(server.address, _QUICK_RECONNECT) as channel:
            return await _Caller(kind, scenario, channel, server).observe()


class _Caller:
    def __init__(self, kind: Kind, scenario: Scenario, channel: grpc.aio.Channel, server: Server) -> None:
        self.kind, self.scenario, self.channel, self.server = kind, scenario, channel, server
        self.release = asyncio.Event()
        self.seen: dict[str, Any] = {}
        self.messages: list[Any] = []

    async def observe(self) -> Observation:
        multicallable = getattr(self.channel, self.kind.arity)(
            METHODS[self.kind.arity],
            request_serializer=self.scenario.serializer,
            response_deserializer=self.scenario.deserializer,
        )
        if self.scenario.caller is Caller.CLOSES_BEFORE:
            await self.channel.close()
        try:
            async with self._meanwhile():
                await self._run(multicallable)
        finally:
            self.release.set()
        if self.server.received:
            self.seen["request_metadata"] = self.server.received[0].metadata
        return Observation(messages=tuple(self.messages), **self.seen)

    async def _run(self, multicallable: Any) -> None:
        try:
            call = self._invoke(multicallable)
        except _Raised as error:
            self.seen.update(raised=Failure.of(error), where="invoke")
            return
        ended: list[Any] = []
        if not self.scenario.caller.abandons:
            call.add_done_callback(ended.append)
        if self.scenario.caller is Caller.CANCELS_AT_ONCE:
            self.seen["cancel"] = call.cancel()
        if self.kind.requests == "write":
            await self._write(call)
        await self._act(call)
        if self.scenario.caller.abandons:
            del call
            gc.collect()
            # grpc.aio's channel holds its calls until they end; another may drop them sooner.
            await self.channel.close()
            await aio_until(lambda: has_none(self.server))
            return
        await self._finish(call)
        raised = self.seen.get("raised")
        if raised is not None and not raised.is_status:
            return  # grpc.aio never ends such a call: a wait for its code never ends
        await aio_until(lambda: ended)
        self.seen["callbacks"] = (("done", len(ended)), ("with the call", ended.count(call)))
        await self._look(call)

    def _invoke(self, multicallable: Any) -> Any:
        metadata = self.scenario.metadata
        if isinstance(metadata, tuple):
            metadata = (*metadata, (SCRIPT, self.scenario.script.name))
        requests: dict[str, Callable[[], tuple[Any, ...]]] = {
            "message": lambda: (REQUEST,),
            "async iterator": lambda: (self._requests(),),
            "iterable": lambda: (self.scenario.requests,),
            "write": lambda: (),
        }
        return multicallable(
            *requests[self.kind.requests](),
            timeout=self.scenario.timeout,
            metadata=metadata,
            credentials=self.scenario.credentials and self.scenario.credentials(),
            wait_for_ready=self.scenario.wait_for_ready,
            compression=self.scenario.compression,
        )

    async def _requests(self) -> AsyncIterator[bytes]:
        for request in self.scenario.requests:
            yield request
        if self.scenario.then is Requests.WAIT:
            await self.release.wait()
        elif self.scenario.then is Requests.RAISE:
            await aio_until(lambda: has_one(self.server))
            raise RuntimeError("this request iterator fails")

    async def _write(self, call: Any) -> None:
        try:
            async with asyncio.timeout(_WAIT):
                for request in self.scenario.requests:
                    await call.write(request)
                await call.done_writing()
        except _Raised as error:
            if not call.done():  # else it is a race which write sees the end
                self.seen.update(raised=Failure.of(error), where="write")

    async def _act(self, call: Any) -> None:
        """Take the caller's action while the call runs."""
        caller = self.scenario.caller
        if caller.reads_first:
            self.messages.append(await (anext(aiter(call)) if self.kind.responses == "iterate" else call.read()))
        elif caller.closes or caller.abandons or caller is Caller.CANCELS_INSIDE:
            await aio_until(lambda: has_one(self.server))
        if caller.closes:
            await self.channel.close()
        if caller.cancels and caller is not Caller.CANCELS_AT_ONCE:
            self.seen["cancel"] = call.cancel()

    async def _finish(self, call: Any) -> None:
        for again in (False, True):
            try:
                async with asyncio.timeout(_WAIT):
                    await self._read_to_end(call)
            except _Raised as error:
                self.seen.update(
                    {"raised_again": Failure.of(error)} if again else {"raised": Failure.of(error), "where": "result"}
                )

    async def _read_to_end(self, call: Any) -> None:
        match self.kind.responses:
            case "await":
                self.messages.append(await call)
            case "iterate":
                async for message in call:
                    self.messages.append(message)
            case "read":
                while (message := await call.read()) is not grpc.aio.EOF:
                    self.messages.append(message)

    async def _look(self, call: Any) -> None:
        self.seen.update(
            code=await _soon(call.code()),
            details=plain(await _soon(call.details())),
            initial_metadata=pairs(await _soon(call.initial_metadata())),
            trailing_metadata=pairs(await _soon(call.trailing_metadata())),
            flags=tuple((name, getattr(call, name)()) for name in ("done", "cancelled")),
        )

    @asynccontextmanager
    async def _meanwhile(self) -> AsyncIterator[None]:
        """Events during the caller's wait."""
        if self.scenario.serves is not Serves.LATER:
            yield
            return
        timer = asyncio.get_running_loop().call_later(_LATER, self.server.start)
        yield
        timer.cancel()


async def _soon(answer: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(answer, _WAIT)
