"""Attempts of a stream of the asyncio channel: replay, commitment, hedges and timeouts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, all_ready, channel_to, in_flight
from tests.e2e.streams.messages import EOF, collected, collected_by_reading, requests
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.testing import ProcessServer, Server, echo, servers


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
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")


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
            await aio_until(lambda: len(call.mesh.attempts) == 3, "two attempts were given up")
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
                await aio_until(lambda: len(call.mesh.attempts) == 3, "it is retried though nobody reads")
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
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")
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


async def test_streams_survive_a_kill_before_their_first_message() -> None:
    """When a server is killed while streams wait for their first message, the other serves all of them."""
    with ProcessServer() as a, ProcessServer() as b:
        async with channel_to(a, b, retry_budget=None) as channel:
            await all_ready(channel, 2)
            a.pause()  # it has a connection and answers nothing, however long the rest takes
            calls = [channel.stream_stream(echo.BIDI_STREAM)(requests(b"1", b"2"), timeout=PATIENCE) for _ in range(10)]
            reads = [asyncio.ensure_future(collected(call)) for call in calls]
            await aio_until(lambda: sum(read.done() for read in reads) == 5, "the other server has answered its half")
            await asyncio.to_thread(a.kill)
            assert await asyncio.gather(*reads) == [[b"1", b"2"]] * 10
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")


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
            await aio_until(lambda: interceptor.asked, "the interceptor is asked for a message")
            await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
            await asyncio.to_thread(server.stop)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await reading
            assert caught.value.code() is await call.code() is grpc.StatusCode.UNAVAILABLE
