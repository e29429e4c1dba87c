"""Streams of the asyncio channel against real servers: order, replay, commitment, cancellation, collection."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, QUICK, all_ready, channel_to, in_flight, until

import meshlib
import meshlib.aio
from meshlib.testing import ProcessServer, Server, echo, servers

EOF = grpc.aio.EOF


async def requests(*messages: bytes) -> AsyncIterator[bytes]:
    """A request iterator."""
    for message in messages:
        yield message


async def collected(call: Any) -> list[Any]:
    """All messages of a call."""
    return [message async for message in call]


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


@pytest.mark.parametrize("kind", ["async", "written"])
async def test_a_request_stream_is_replayed_on_another_host(kind: str) -> None:
    """When the server fails after some messages, the next gets all of them, in order; the iterator runs once."""
    with servers(2) as (a, b):
        for server in (a, b):
            server.fault(code="UNAVAILABLE", after=1, times=1, method=echo.CLIENT_STREAM)
        async with channel_to(a, b) as channel:
            await all_ready(channel, 2)
            call = channel.stream_unary(echo.CLIENT_STREAM)(
                requests(b"1", b"2", b"3") if kind == "async" else None, timeout=PATIENCE
            )
            if kind == "written":
                for message in (b"1", b"2", b"3"):
                    await call.write(message)
                await call.done_writing()
            assert await call == b"123"
            assert [attempt.code for attempt in call.mesh.attempts] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]
            await until(lambda: in_flight(channel) == 0, "places are freed")


async def test_what_was_pulled_for_a_stale_attempt_is_the_next_ones() -> None:
    """The iterator, suspended while attempts are dropped, continues undisturbed for the current one."""
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"1"
        await gate.wait()
        yield b"2"

    with servers(2) as (a, b):
        for server in (a, b):
            server.fault(hang=True, times=1)
        policy = meshlib.RetryPolicy(initial_backoff=0.001, per_attempt_timeout=0.2)
        async with channel_to(a, b, retry=policy) as channel:
            await all_ready(channel, 2)
            call = channel.stream_unary(echo.CLIENT_STREAM)(slow(), timeout=PATIENCE)
            await until(lambda: len(call.mesh.attempts) == 3, "two attempts were given up")
            gate.set()
            assert await call == b"12"


async def test_beyond_the_buffer_an_attempt_is_final() -> None:
    """A stream too large for the buffer is not sent twice, and the error says so."""
    with Server() as server:
        server.fault(code="UNAVAILABLE", after=1)
        async with channel_to(server, retry=meshlib.RetryPolicy(buffer_size=10)) as channel:
            call = channel.stream_unary(echo.CLIENT_STREAM)(timeout=PATIENCE)
            await call.write(b"12345678")
            await call.write(b"12345678")
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert len(call.mesh.attempts) == 1
            assert "replay buffer" in call.mesh.why


async def test_after_the_first_message_nothing_is_retried() -> None:
    """After a message has reached the application, nothing is retried."""
    with servers(2) as (a, b):
        for server in (a, b):
            server.fault(code="UNAVAILABLE", after=2)
        async with channel_to(a, b) as channel:
            await all_ready(channel, 2)
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            seen = []
            with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012
                async for message in call:
                    seen.append(message)  # noqa: PERF401 - those before the error count too
            assert seen == [b"x"] * 2
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert type(caught.value) is grpc.aio.AioRpcError
            assert caught.value.mesh.why == "the application had already received a message"


@pytest.mark.parametrize("look", ["read", "iterate", "code", "headers", "connection"])
async def test_before_that_it_is_whatever_the_application_looks_at(look: str) -> None:
    """Reader, iterator and a caller that only waits for the status or the headers see the attempt that worked."""
    with servers(2, name="s") as (a, b):
        for server in (a, b):
            server.fault(code="UNAVAILABLE", times=1)
        async with channel_to(a, b) as channel:
            await all_ready(channel, 2)
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            if look == "headers":
                assert dict(await call.initial_metadata())[echo.SERVER_NAME].startswith("s-")
            elif look == "connection":
                await call.wait_for_connection()
            if look == "read":
                assert [await call.read() for _ in range(4)] == [b"x"] * 3 + [EOF]
            elif look != "code":
                assert await collected(call) == [b"x"] * 3
            else:
                code = asyncio.ensure_future(call.code())
                await until(lambda: len(call.mesh.attempts) == 3, "it is retried though nobody reads")
                assert await collected(call) == [b"x"] * 3
                assert await code is grpc.StatusCode.OK
            assert [attempt.code for attempt in call.mesh.attempts] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]


async def test_headers_handed_out_are_final() -> None:
    """An attempt is not retried after the application has its headers."""
    with Server() as server:
        server.fault(code="UNAVAILABLE", initial_metadata=True, delay=0.2)
        async with channel_to(server) as channel:
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            assert echo.SERVER_NAME in dict(await call.initial_metadata())
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            assert call.mesh.why == "the application had already read the response headers"
            assert len(call.mesh.attempts) == 1


async def test_a_stream_hedge_that_speaks_first_wins() -> None:
    """Of several attempts the first with a message, or with the requested headers, wins; the others are cancelled."""
    with servers(2) as (a, b):
        a.fault(hang=True)
        policy = meshlib.HedgingPolicy(hedging_delay=0.01)
        async with channel_to(a, b, retry=policy, retry_budget=None) as channel:
            await all_ready(channel, 2)
            for look in ("read", "iterate", "headers", "bidi") * 2:
                if look == "bidi":
                    bidi = channel.stream_stream(echo.BIDI_STREAM)(requests(b"1", b"2"), timeout=PATIENCE)
                    assert await collected(bidi) == [b"1", b"2"]
                    continue
                call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
                if look == "headers":
                    assert echo.SERVER_NAME in dict(await call.initial_metadata())
                if look == "read":
                    assert [await call.read() for _ in range(4)] == [b"x"] * 3 + [EOF]
                else:
                    assert await collected(call) == [b"x"] * 3
            await until(lambda: in_flight(channel) == 0, "places are freed")
            await asyncio.to_thread(a.wait_until, lambda s: s.in_flight == 0)


async def test_a_stream_without_a_message_in_time_moves_on() -> None:
    """``per_attempt_timeout`` of a stream ends with its first message."""
    with servers(2) as (a, b):
        a.fault(hang=True)
        policy = meshlib.RetryPolicy(initial_backoff=0.001, per_attempt_timeout=0.5)
        async with channel_to(a, b, retry=policy) as channel:
            await all_ready(channel, 2)
            for _ in range(3):
                call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
                assert await call.read() == b"x"
                await asyncio.sleep(0.6)  # longer than the limit, on purpose: it no longer counts
                assert await collected_by_reading(call) == [b"x"] * 2


async def collected_by_reading(call: Any) -> list[Any]:
    """All messages of a call, by ``read``."""
    messages = []
    while (message := await call.read()) is not EOF:
        messages.append(message)
    return messages


async def test_streams_survive_a_kill_before_their_first_message() -> None:
    """When a server is killed while streams wait for their first message, the other serves all of them."""
    with ProcessServer() as a, ProcessServer() as b:
        async with channel_to(a, b, retry_budget=None) as channel:
            await all_ready(channel, 2)
            a.pause()  # it has a connection and answers nothing, however long the rest takes
            calls = [channel.stream_stream(echo.BIDI_STREAM)(requests(b"1", b"2"), timeout=PATIENCE) for _ in range(10)]
            reads = [asyncio.ensure_future(collected(call)) for call in calls]
            await until(lambda: sum(read.done() for read in reads) == 5, "the other server has answered its half")
            await asyncio.to_thread(a.kill)
            assert await asyncio.gather(*reads) == [[b"1", b"2"]] * 10
            await until(lambda: in_flight(channel) == 0, "places are freed")


class _Mute(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    """Ends the responses of an attempt before the first; the attempt itself continues."""

    def __init__(self) -> None:
        self.asked = 0

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)

        class Nothing:
            def __aiter__(self) -> "Nothing":
                return self

            async def __anext__(nothing) -> Any:  # noqa: N805
                assert call
                self.asked += 1
                if self.asked > 100:
                    raise AssertionError("it is asked over and over")
                raise StopAsyncIteration

        return Nothing()


@pytest.mark.parametrize("look", ["read", "iterate"])
async def test_an_attempt_interceptor_that_stops_reading(look: str) -> None:
    """An attempt whose interceptor yields no message is not polled; the call ends with the attempt's status."""
    with Server() as server:
        server.fault(hang=True)
        async with channel_to(server, retry=None, attempt_interceptors=[interceptor := _Mute()]) as channel:
            await all_ready(channel, 1)
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            reading = asyncio.ensure_future(collected(call) if look == "iterate" else collected_by_reading(call))
            await until(lambda: interceptor.asked, "the interceptor is asked for a message")
            await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
            await asyncio.to_thread(server.stop)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await reading
            assert caught.value.code() is await call.code() is grpc.StatusCode.UNAVAILABLE


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
                    await until(lambda: in_flight(channel) == 0, "its place is freed")
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
                await until(lambda: in_flight(channel) == 0, "its place is freed")
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
                await until(lambda: len(_calls_alive()) == len(others), "the calls are gone")
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
            await until(lambda: channel.mesh.snapshot().hosts[0].successes == 1, "it ended well")


async def test_bad_metadata_of_a_stream_is_answered_as_in_grpc() -> None:
    """An upper-case key is INTERNAL for streams; no in-flight count leaks."""
    with Server() as server:
        async with channel_to(server) as channel:
            await all_ready(channel, 1)
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", metadata=(("UPPER", "v"),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "Invalid metadata")
            await until(lambda: in_flight(channel) == 0, "its place is freed")


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("written", [False, True])
async def test_what_a_server_says_before_it_has_all_requests_is_heard(kind: str, written: bool) -> None:
    """The server's status counts even if it comes while a request is being sent; grpc.aio then fails to send, and takes
    that for a fault of C-core's, or cancels the call: one in five of these calls."""
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
            await until(lambda: in_flight(channel) == 0, "places are freed")
