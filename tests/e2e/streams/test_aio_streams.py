"""Streams of the asyncio channel against real servers: order, cancellation, collection."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, QUICK, all_ready, channel_to, in_flight
from tests.e2e.streams.messages import EOF, collected, collected_by_reading, requests
from tests.waiting import aio_until

from meshlib.testing import Server, echo


async def test_responses_are_read_and_iterated() -> None:
    """Responses can be read or iterated, each to the end, with status and metadata; once begun, no mixing."""
    with Server(name="a") as server:
        async with channel_to(server) as channel:
            stub = channel.unary_stream(echo.SERVER_STREAM)
            call = stub(b"x", timeout=PATIENCE)
            assert isinstance(call, grpc.aio.UnaryStreamCall)
            assert await collected(call) == [b"x"] * 3
            assert await collected(call) == []
            assert await call.code() is grpc.StatusCode.OK
            assert dict(await call.initial_metadata())[echo.SERVER_NAME] == "a"
            call = stub(b"x", timeout=PATIENCE)
            assert [await call.read() for _ in range(3)] == [b"x"] * 3
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                aiter(call)
            assert [await call.read() for _ in range(2)] == [EOF] * 2
            assert call.mesh.attempts[0].code == "OK"


@pytest.mark.parametrize("kind", ["async", "sync", "written"])
async def test_requests_are_sent_in_order(kind: str) -> None:
    """Requests of an async iterator, a plain one and ``write`` arrive in order, for one response and for a stream."""
    messages = [b"%d" % n for n in range(50)]
    with Server() as server:
        async with channel_to(server) as channel:

            async def send(call: Any) -> None:
                if kind == "written":
                    for message in messages:
                        await call.write(message)
                    await call.done_writing()

            given = {"async": lambda: requests(*messages), "sync": lambda: iter(messages), "written": lambda: None}[
                kind
            ]
            call = channel.stream_unary(echo.CLIENT_STREAM)(given(), timeout=PATIENCE)
            assert isinstance(call, grpc.aio.StreamUnaryCall)
            await send(call)
            assert await call == b"".join(messages)
            both = channel.stream_stream(echo.BIDI_STREAM)(given(), timeout=PATIENCE)
            assert isinstance(both, grpc.aio.StreamStreamCall)
            sending = asyncio.ensure_future(send(both))
            assert await collected(both) == messages
            await sending
            assert await both.code() is grpc.StatusCode.OK


async def test_writing_has_the_rules_of_grpc() -> None:
    """No mixing with an iterator, no write after ``done_writing``, none after the end."""
    with Server() as server:
        async with channel_to(server) as channel:
            stub = channel.stream_stream(echo.BIDI_STREAM)
            call = stub(iter([b"x"]), timeout=PATIENCE)
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                await call.write(b"x")
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                await call.done_writing()
            assert await call.read() == b"x"
            assert await call.read() is EOF
            call = stub(timeout=PATIENCE)
            await call.write(b"1")
            assert await call.read() == b"1"
            await call.done_writing()
            await call.done_writing()
            with pytest.raises(asyncio.InvalidStateError, match=r"half closed|already finished"):
                await call.write(b"2")
            assert await call.read() is EOF
            with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                await call.write(b"2")
            await call.done_writing()


async def test_cancelling_a_stream() -> None:
    """``cancel``, or the task that reads, writes or waits, cancels a stream; the count drops and the server's handler
    ends."""
    with Server() as server:
        server.fault(hang=True)
        async with channel_to(server) as channel:
            await all_ready(channel, 1)

            async def reading(call: Any) -> Any:
                return await call.read()

            async def iterating(call: Any) -> Any:
                return await anext(aiter(call))

            async def asking(call: Any) -> Any:
                return await call.wait_for_connection()

            for how in (reading, iterating, asking):
                for by_task in (True, False):
                    call = channel.unary_stream(echo.SERVER_STREAM)(b"x")
                    task = asyncio.ensure_future(how(call))
                    await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
                    assert (task if by_task else call).cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert call.cancelled()
                    assert await call.details() == "Locally cancelled by application!"
                    with pytest.raises(asyncio.CancelledError):
                        await call.read()
                    await aio_until(lambda: in_flight(channel) == 0, "its place is freed")
                    await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 0)


async def test_a_request_iterator_that_raises_cancels_the_call() -> None:
    """A raising request iterator cancels the call, as in grpc.aio; the application has the reason."""

    def broken() -> Iterator[bytes]:
        yield b"1"
        raise KeyError("mine")

    with Server() as server:
        async with channel_to(server) as channel:
            call = channel.stream_unary(echo.CLIENT_STREAM)(broken(), timeout=PATIENCE)
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await call.code() is grpc.StatusCode.CANCELLED
            bidi = channel.stream_stream(echo.BIDI_STREAM)(5, timeout=PATIENCE)
            with pytest.raises(asyncio.CancelledError):
                await bidi.read()


async def test_a_stream_nobody_holds_is_cancelled() -> None:
    """Collecting the stream ends its handler at the server, drops the count and runs its callbacks."""
    with Server() as server:
        server.fault(hang=True)
        async with channel_to(server) as channel:
            await all_ready(channel, 1)
            makers = [
                lambda: channel.unary_stream(echo.SERVER_STREAM)(b"x"),
                channel.stream_stream(echo.BIDI_STREAM),
                channel.stream_unary(echo.CLIENT_STREAM),
            ]
            for make in makers:
                told: list[Any] = []
                call = make()
                gone = weakref.ref(call)
                call.add_done_callback(lambda done, told=told: told.append(done.cancelled()))
                await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
                del call
                gc.collect()
                await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 0)
                assert told == [True]
                await aio_until(lambda: in_flight(channel) == 0, "its place is freed")
                gc.collect()
                assert gone() is None


_CALLS: dict[str, Callable[[Any], Any]] = {
    "unary": lambda channel: channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE),
    "iterated": lambda channel: collected(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)),
    "read": lambda channel: collected_by_reading(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)),
    "uploaded": lambda channel: channel.stream_unary(echo.CLIENT_STREAM)(requests(b"1", b"2"), timeout=PATIENCE),
    "conversed": lambda channel: collected(channel.stream_stream(echo.BIDI_STREAM)(iter([b"1"]), timeout=PATIENCE)),
}


@pytest.mark.parametrize("end", ["well", "failed", "refused"])
@pytest.mark.parametrize("kind", _CALLS)
async def test_what_has_ended_is_gone_without_a_search_for_cycles(kind: str, end: str) -> None:
    """Neither the call nor grpc's own for its attempt outlives the application's last reference, as in grpc.aio."""
    with Server() as server:
        async with channel_to(server) as channel:
            await _CALLS[kind](channel)  # creates objects made once per process or channel
            if end == "failed":
                server.fault(code="FAILED_PRECONDITION")
            elif end == "refused":
                await asyncio.to_thread(server.stop)
            gc.collect()
            others = _calls_alive()  # those of other tests: held, so that none of them disappears meanwhile
            gc.disable()
            try:
                for _ in range(2):
                    with suppress(grpc.aio.AioRpcError):
                        await _CALLS[kind](channel)
                await aio_until(lambda: len(_calls_alive()) == len(others), "the calls are gone")
            finally:
                gc.enable()


def _calls_alive() -> list[grpc.aio.Call]:
    return [x for x in gc.get_objects() if isinstance(x, grpc.aio.Call)]


@pytest.mark.parametrize("kind", _CALLS)
async def test_a_closed_channel_leaves_nothing_to_the_next(kind: str) -> None:
    """C-core remembers a refusing host while a channel to it lives; it forgets a closed one at once."""
    with Server() as server:
        for _ in range(10):
            await asyncio.to_thread(server.stop)
            async with channel_to(server) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await _CALLS[kind](channel)
            await asyncio.to_thread(server.start)
            async with channel_to(server) as channel:
                await _CALLS[kind](channel)


async def test_an_upload_nobody_holds_runs_to_its_end() -> None:
    """A call with an iterator and one response ends without a reference in the application, as in grpc.aio."""
    with Server() as server:
        async with channel_to(server, retry=QUICK) as channel:
            await all_ready(channel, 1)
            channel.stream_unary(echo.CLIENT_STREAM)(requests(b"1", b"2"), metadata=((echo.DELAY_MS, "30"),))
            gc.collect()
            await aio_until(lambda: channel.mesh.snapshot().hosts[0].successes == 1, "it ended well")


async def test_bad_metadata_of_a_stream_is_answered_as_in_grpc() -> None:
    """An upper-case key is INTERNAL for streams; no in-flight count leaks."""
    with Server() as server:
        async with channel_to(server) as channel:
            await all_ready(channel, 1)
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", metadata=(("UPPER", "v"),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "Invalid metadata")
            await aio_until(lambda: in_flight(channel) == 0, "its place is freed")


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("written", [False, True])
async def test_what_a_server_says_before_it_has_all_requests_is_heard(kind: str, written: bool) -> None:
    """The server's status counts even if it arrives while a request is being sent. grpc.aio then fails to send, and
    reports that as an error of C-core, or cancels the call: one in five of these calls."""
    with Server() as server:
        server.fault(code="NOT_FOUND")
        async with channel_to(server, retry=QUICK) as channel:
            method = echo.CLIENT_STREAM if kind == "stream_unary" else echo.BIDI_STREAM
            for _ in range(100):
                call = getattr(channel, kind)(method)(None if written else requests(*[b"x"] * 20), timeout=PATIENCE)
                if written:
                    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it has ended meanwhile
                        for _ in range(20):
                            await call.write(b"x")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call if kind == "stream_unary" else await collected(call)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
                assert [attempt.code for attempt in call.mesh.attempts] == ["NOT_FOUND"]
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")
