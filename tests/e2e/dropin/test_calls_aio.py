"""The call object of a `grpc.aio` channel: its answers before, at and after the end of its call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.e2e.dropin.observation import pairs
from tests.e2e.dropin.scenarios import LONG
from tests.e2e.dropin.service import CODE, COPIES, DETAILS, INITIAL, METHODS, SCRIPT, TRAILING, Script, has_one
from tests.e2e.dropin.subjects import Subject
from tests.waiting import aio_until

from meshlib.testing import Server

WAIT = 10.0  # seconds after which a wait fails
AT_ONCE = 0.05
ARITIES = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
BASES = {
    "unary_unary": grpc.aio.UnaryUnaryCall,
    "unary_stream": grpc.aio.UnaryStreamCall,
    "stream_unary": grpc.aio.StreamUnaryCall,
    "stream_stream": grpc.aio.StreamStreamCall,
}

Start = Callable[..., Any]


@pytest.fixture
def start(aio_channel: grpc.aio.Channel) -> Start:
    """Starts a call: `start("unary_unary", Script.HOLD, timeout=1.0)` gives the call object.

    A stream of requests is given as an iterable; with `write=True` the test writes them.
    """

    def start(
        arity: str, script: Script = Script.ECHO, *, timeout: float | None = LONG, write: bool = False, copies: int = 1
    ) -> Any:
        multicallable = getattr(aio_channel, arity)(METHODS[arity])
        requests: Any = () if write else ([b"one"] * copies,) if arity.startswith("stream") else (b"one",)
        return multicallable(*requests, timeout=timeout, metadata=((SCRIPT, script.name),))

    return start


async def code_of(call: Any) -> grpc.StatusCode:
    """Its code, within a time limit."""
    return await asyncio.wait_for(call.code(), WAIT)  # type: ignore[no-any-return]


@pytest.mark.parametrize("arity", ARITIES)
async def test_before_the_end(start: Start, server: Server, arity: str) -> None:
    """While the server holds a call it is neither done nor cancelled, and its deadline is counted down."""
    call = start(arity, Script.HOLD)
    assert isinstance(call, BASES[arity])
    await aio_until(lambda: has_one(server))
    assert (call.done(), call.cancelled()) == (False, False)
    assert LONG - WAIT < call.time_remaining() <= LONG
    call.cancel()
    unlimited = start(arity, Script.HOLD, timeout=None)
    assert unlimited.time_remaining() is None
    unlimited.cancel()


@pytest.mark.parametrize("arity", ARITIES)
async def test_cancel(start: Start, server: Server, arity: str) -> None:
    """The first cancel() ends the call, a second returns False; awaiting it raises CancelledError."""
    call = start(arity, Script.HOLD)
    await aio_until(lambda: has_one(server))
    assert call.cancel() is True
    assert call.cancel() is False
    assert (call.done(), call.cancelled()) == (True, True)
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            await (call if arity.endswith("unary") else call.read())
    assert await code_of(call) is grpc.StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"
    assert pairs(await call.trailing_metadata()) == ()


@pytest.mark.parametrize("arity", ARITIES)
async def test_cancelled_with_its_task(start: Start, server: Server, arity: str) -> None:
    """A task that is cancelled while it waits for a call cancels the call."""
    call = start(arity, Script.HOLD)

    async def wait() -> None:
        await (call if arity.endswith("unary") else call.read())

    task = asyncio.create_task(wait())
    await aio_until(lambda: has_one(server))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    assert await code_of(call) is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("arity", ["stream_unary", "stream_stream"])
async def test_cancel_reaches_the_request_iterator(aio_channel: grpc.aio.Channel, arity: str) -> None:
    """The request iterator of a cancelled call is cancelled where it waits."""
    waits, cancelled = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        yield b"one"
        waits.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    call = getattr(aio_channel, arity)(METHODS[arity])(requests(), timeout=LONG)
    await asyncio.wait_for(waits.wait(), WAIT)
    assert call.cancel()
    await asyncio.wait_for(cancelled.wait(), WAIT)


async def test_timed_out_with_wait_for(start: Start) -> None:
    """asyncio's own timeout ends the call too."""
    call = start("unary_unary", Script.HOLD)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, AT_ONCE)
    assert call.cancelled()


@pytest.mark.parametrize("arity", ["unary_unary", "stream_unary"])
async def test_awaited_twice(start: Start, arity: str) -> None:
    """A response, and an error, may be awaited any number of times."""
    call = start(arity)
    assert [await call, await call] == [b"one", b"one"]
    call = start(arity, Script.FAIL)
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert (raised.value.code(), raised.value.details()) == (CODE, DETAILS)


@pytest.mark.parametrize("arity", ARITIES)
async def test_error(start: Start, arity: str) -> None:
    """A failed call gives code, details and metadata without raising, any number of times."""
    call = start(arity, Script.FAIL)
    for _ in range(2):
        assert (await code_of(call), await call.details()) == (CODE, DETAILS)
    assert isinstance(await call.debug_error_string(), str)
    initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    assert isinstance(initial, grpc.aio.Metadata)
    assert isinstance(trailing, grpc.aio.Metadata)
    assert (pairs(initial), pairs(trailing)) == ((), TRAILING)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call if arity.endswith("unary") else call.read())
    assert isinstance(raised.value, grpc.RpcError)
    assert CODE.name in str(raised.value)
    assert "détails" in str(raised.value)
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
async def test_headers_before_the_end(start: Start, arity: str) -> None:
    """initial_metadata() of a stream waits only for the headers, and reads no message."""
    call = start(arity, Script.HOLD_AFTER_FIRST)
    metadata = await asyncio.wait_for(call.initial_metadata(), WAIT)
    assert pairs(metadata) == INITIAL
    assert metadata.get_all("x-initial") == ["one", "two"]
    assert not call.done()
    assert await call.read() == b"one"
    call.cancel()


@pytest.mark.parametrize("arity", ARITIES)
async def test_callbacks(start: Start, arity: str) -> None:
    """Callbacks run once, with the call, in the order they were added; after the end at once."""
    call = start(arity, Script.FAIL)
    ran: list[Any] = []
    call.add_done_callback(ran.append)
    call.add_done_callback(lambda done: ran.append((done, done.done())))
    assert await code_of(call) is CODE
    await aio_until(lambda: len(ran) == 2)
    assert ran == [call, (call, True)]
    call.add_done_callback(ran.append)
    await aio_until(lambda: len(ran) == 3)
    assert ran[-1] is call


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
async def test_iteration(start: Start, arity: str) -> None:
    """A stream has one iterator; past its end there is nothing more."""
    call = start(arity, copies=COPIES)
    assert aiter(call) is aiter(call)
    assert [message async for message in call] == [b"one"] * COPIES
    assert [message async for message in call] == []


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
async def test_reading(start: Start, arity: str) -> None:
    """read() returns messages, then EOF, which is not a message and is false."""
    call = start(arity, copies=COPIES)
    assert [await call.read() for _ in range(COPIES)] == [b"one"] * COPIES
    for _ in range(2):
        assert await call.read() is grpc.aio.EOF
    assert not grpc.aio.EOF


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
async def test_reading_is_not_mixed_with_iteration(start: Start, arity: str) -> None:
    """A call read in one way cannot be read in the other."""
    call = start(arity, Script.HOLD_AFTER_FIRST)
    assert await call.read() == b"one"
    with pytest.raises(grpc.aio.UsageError):
        aiter(call)
    call.cancel()
    call = start(arity, Script.HOLD_AFTER_FIRST)
    assert await anext(aiter(call)) == b"one"
    with pytest.raises(grpc.aio.UsageError):
        await call.read()
    call.cancel()


@pytest.mark.parametrize("arity", ["stream_unary", "stream_stream"])
async def test_writing_is_not_mixed_with_an_iterable(start: Start, arity: str) -> None:
    """A call with a request iterable cannot be written."""
    call = start(arity)
    with pytest.raises(grpc.aio.UsageError):
        await call.write(b"more")
    with pytest.raises(grpc.aio.UsageError):
        await call.done_writing()
    assert await (call if arity.endswith("unary") else call.read()) == b"one"


@pytest.mark.parametrize("arity", ["stream_unary", "stream_stream"])
async def test_writing(start: Start, arity: str) -> None:
    """done_writing() may be called twice; a write after it, or after the end, is rejected."""
    call = start(arity, write=True)
    await call.write(b"one")
    await call.done_writing()
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"late")
    assert await (call if arity.endswith("unary") else call.read()) == b"one"
    assert await code_of(call) is grpc.StatusCode.OK
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"later")
    await call.done_writing()


async def test_a_conversation(start: Start) -> None:
    """Requests and responses of one stream may alternate."""
    call = start("stream_stream", write=True)
    for message in (b"1", b"2", b"3"):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("arity", ARITIES)
async def test_wait_for_connection(subject: Subject, start: Start, server: Server, arity: str) -> None:
    """wait_for_connection() returns when there is one, and raises the call's error when there is none."""
    await asyncio.wait_for(start(arity).wait_for_connection(), WAIT)
    server.stop()
    async with subject.aio_insecure_channel(server.address) as channel:
        multicallable = getattr(channel, arity)(METHODS[arity])
        call = multicallable([b"one"] if arity.startswith("stream") else b"one", timeout=LONG)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.wait_for(call.wait_for_connection(), WAIT)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
