"""Interceptors of a `grpc.aio` channel: those written for grpc.aio work unchanged."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.e2e.dropin.observation import pairs
from tests.e2e.dropin.scenarios import LONG
from tests.e2e.dropin.service import CODE, COPIES, INITIAL, METHODS, SCRIPT, TRAILING, Script, has_none, has_one
from tests.e2e.dropin.subjects import Subject
from tests.waiting import aio_until

from meshlib.testing import Server

WAIT = 10.0  # seconds after which a wait fails
MARK = "x-interceptor"
ARITIES = list(METHODS)
EXPECTED = {
    "unary_unary": [b"one"],
    "unary_stream": [b"one"] * COPIES,
    "stream_unary": [b"one" * COPIES],
    "stream_stream": [b"one"] * COPIES,
}

Step = Callable[..., Any]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, step: Step) -> None:
        self.step = step

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self.step(continuation, client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, step: Step) -> None:
        self.step = step

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self.step(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, step: Step) -> None:
        self.step = step

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self.step(continuation, client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, step: Step) -> None:
        self.step = step

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self.step(continuation, client_call_details, request_iterator)


KINDS = {
    "unary_unary": _UnaryUnary,
    "unary_stream": _UnaryStream,
    "stream_unary": _StreamUnary,
    "stream_stream": _StreamStream,
}


def marking(mark: str) -> Step:
    """Adds metadata, as most interceptors do."""

    async def step(go_on: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), (MARK, mark))
        return await go_on(details._replace(metadata=metadata), request)

    return step


class Intercepted:
    """Calls of one kind through interceptors with these steps."""

    def __init__(self, channel: grpc.aio.Channel, arity: str) -> None:
        self._multicallable = getattr(channel, arity)(METHODS[arity])
        self.arity = arity

    def __call__(self, script: Script = Script.ECHO) -> Any:
        requests: Any = [b"one"] * COPIES if self.arity.startswith("stream") else b"one"
        return self._multicallable(requests, timeout=LONG, metadata=((SCRIPT, script.name),))

    async def responses(self, script: Script = Script.ECHO) -> list[Any]:
        call = self(script)
        return [await call] if self.arity.endswith("unary") else [message async for message in call]


@pytest.fixture(params=ARITIES)
def arity(request: pytest.FixtureRequest) -> str:
    """Every kind of call."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def intercepted(subject: Subject, server: Server) -> AsyncIterator[Callable[..., Intercepted]]:
    """`intercepted(arity, step, ...)`: a channel whose interceptors do these steps."""
    channels: list[grpc.aio.Channel] = []

    def connect(arity: str, *steps: Step) -> Intercepted:
        interceptors: Sequence[Any] = [KINDS[arity](step) for step in steps]
        channels.append(subject.aio_insecure_channel(server.address, interceptors=interceptors))
        return Intercepted(channels[-1], arity)

    yield connect
    for channel in channels:
        await channel.close()


async def test_interceptors_are_nested(intercepted: Callable[..., Intercepted], server: Server, arity: str) -> None:
    """The first interceptor is the outermost, and their additions reach the server in that order."""
    calls = intercepted(arity, marking("outer"), marking("inner"))
    assert await calls.responses() == EXPECTED[arity]
    assert [value for key, value in server.received[0].metadata if key == MARK] == ["outer", "inner"]


async def test_details(intercepted: Callable[..., Intercepted], arity: str) -> None:
    """An interceptor gets the caller's arguments."""
    seen: list[Any] = []

    async def look(go_on: Any, details: Any, request: Any) -> Any:
        seen.append(details)
        return await go_on(details, request)

    assert await intercepted(arity, look).responses() == EXPECTED[arity]
    (details,) = seen
    assert isinstance(details, grpc.aio.ClientCallDetails)
    assert (details.method, details.timeout) == (METHODS[arity].encode(), LONG)
    assert tuple(details.metadata) == ((SCRIPT, Script.ECHO.name),)
    assert (details.credentials, details.wait_for_ready) == (None, None)


async def test_call_object(intercepted: Callable[..., Intercepted], arity: str) -> None:
    """The call object of an intercepted call behaves like any other."""
    call = intercepted(arity, marking("one"))()
    ended: list[Any] = []
    call.add_done_callback(ended.append)
    assert not call.done()
    if arity.endswith("unary"):
        await call
    else:
        assert [message async for message in call] == EXPECTED[arity]
    assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
    assert pairs(await call.initial_metadata()) == INITIAL
    assert pairs(await call.trailing_metadata()) == TRAILING
    await aio_until(lambda: ended)
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)


async def test_error_passes_through(intercepted: Callable[..., Intercepted], arity: str) -> None:
    """The error of a call reaches its caller, and the call object has it."""
    calls = intercepted(arity, marking("one"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await calls.responses(Script.FAIL)
    assert raised.value.code() is CODE
    call = calls(Script.FAIL)
    assert await asyncio.wait_for(call.code(), WAIT) is CODE


async def test_cancel(intercepted: Callable[..., Intercepted], server: Server, arity: str) -> None:
    """Cancelling an intercepted call cancels the call behind it."""
    call = intercepted(arity, marking("one"))(Script.HOLD)
    if arity.endswith("unary"):
        await aio_until(lambda: has_one(server))
    else:  # nothing is intercepted before it is asked for
        reading = asyncio.create_task(anext(aiter(call)))
        await aio_until(lambda: has_one(server))
        reading.cancel()
        await asyncio.wait([reading])
    call.cancel()
    await aio_until(lambda: has_none(server))
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("arity", ["unary_unary", "stream_unary"])
async def test_interceptor_that_tries_again(
    intercepted: Callable[..., Intercepted], server: Server, arity: str
) -> None:
    """An interceptor may continue twice, and answer with the second call."""

    async def again(go_on: Any, details: Any, request: Any) -> Any:
        assert await (await go_on(details, request)).code() is CODE
        return await go_on(details._replace(metadata=grpc.aio.Metadata()), request)

    assert await intercepted(arity, again).responses(Script.FAIL) == EXPECTED[arity]
    assert server.calls[METHODS[arity]] == 2


async def test_interceptor_that_answers(intercepted: Callable[..., Intercepted], server: Server) -> None:
    """An interceptor may return its own response, without a call; in grpc.aio only for unary ones."""

    async def answer(go_on: Any, details: Any, request: Any) -> Any:
        return b"own"

    call = intercepted("unary_unary", answer)()
    assert [await call, await call] == [b"own", b"own"]
    assert await call.code() is grpc.StatusCode.OK
    assert server.calls.total() == 0


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
async def test_interceptor_that_wraps_a_stream(intercepted: Callable[..., Intercepted], arity: str) -> None:
    """An interceptor may return its own iterator over the responses of the call."""

    async def shout(go_on: Any, details: Any, request: Any) -> Any:
        call = await go_on(details, request)
        return (message.upper() async for message in call)

    assert await intercepted(arity, shout).responses() == [b"ONE"] * COPIES


async def test_interceptor_that_raises(intercepted: Callable[..., Intercepted], server: Server, arity: str) -> None:
    """An interceptor's exception reaches the caller; the call is not made."""

    async def refuse(go_on: Any, details: Any, request: Any) -> Any:
        raise LookupError("refused by the interceptor")

    with pytest.raises(LookupError, match="refused"):
        await intercepted(arity, refuse).responses()
    assert server.calls.total() == 0


async def test_interceptor_of_no_kind(subject: Subject, server: Server) -> None:
    """A non-interceptor is rejected when the channel is made."""
    with pytest.raises(ValueError, match="nterceptor"):
        subject.aio_insecure_channel(server.address, interceptors=[object()])
