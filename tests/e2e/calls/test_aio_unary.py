"""Unary calls of the asyncio channel against real servers: outcomes, retries, and in-flight counts."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from tests.e2e.aio_world import PATIENCE, QUICK, all_ready, channel_to, in_flight
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.testing import ProcessServer, Server, echo, servers


async def test_a_call_answers_with_message_metadata_and_status() -> None:
    """The call gives the response, and everything else that grpc.aio's call object gives."""
    with Server(name="a") as server:
        async with channel_to(server) as channel:
            call = channel.unary_unary(echo.UNARY)(b"hello", timeout=PATIENCE)
            assert isinstance(call, grpc.aio.UnaryUnaryCall)
            assert await call == b"hello"
            assert await call == b"hello"
            assert dict(await call.initial_metadata())[echo.SERVER_NAME] == "a"
            assert isinstance(await call.trailing_metadata(), grpc.aio.Metadata)
            assert await call.code() is grpc.StatusCode.OK
            assert await call.details() == ""
            assert call.done()
            assert not call.cancelled()
            assert 0 < call.time_remaining() < PATIENCE
            assert [attempt.code for attempt in call.mesh.attempts] == ["OK"]


async def test_a_ready_host_gets_its_attempt_at_once() -> None:
    """The attempt is in flight when the call object exists, before the loop turns."""
    with Server() as server:
        async with channel_to(server) as channel:
            await all_ready(channel, 1)
            call = channel.unary_unary(echo.UNARY)(b"x")
            assert in_flight(channel) == 1
            assert await call == b"x"
            assert in_flight(channel) == 0


async def test_a_single_attempt_raises_grpcs_own_error() -> None:
    """The error's class is grpc.aio's, not ours; ``.mesh`` has the attempts."""
    with Server() as server:
        server.fault(code="NOT_FOUND", details="nobody here", trailing_metadata=(("k", "v"),))
        async with channel_to(server) as channel:
            call = channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error: Any = caught.value
            assert type(error) is grpc.aio.AioRpcError
            assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nobody here")
            assert ("k", "v") in tuple(error.trailing_metadata())
            assert [attempt.code for attempt in error.mesh.attempts] == ["NOT_FOUND"]
            assert await call.code() is grpc.StatusCode.NOT_FOUND


async def test_a_failure_is_retried_on_another_host_and_numbered() -> None:
    """The second attempt goes to another host, with a header for the one before it."""
    with servers(2) as (a, b):
        for server in (a, b):
            server.fault(code="UNAVAILABLE", times=1)
        # C-core strips the number from the metadata while its own retries are on.
        async with channel_to(a, b, options=(("grpc.enable_retries", 0),)) as channel:
            await all_ready(channel, 2)
            call = channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
            assert await call == b"x"
            hosts = [attempt.host for attempt in call.mesh.attempts]
            assert len(hosts) == 3
            assert set(hosts[:2]) == {a.address, b.address}
            sent = sorted(value for s in (a, b) for r in s.received for key, value in r.metadata if "previous" in key)
            assert sent == ["1", "2"]
        assert a.calls.total() + b.calls.total() == 3


async def test_all_attempts_failing_is_told_in_one_error() -> None:
    """Code, details and metadata are the last server's; the text lists the number of attempts and their hosts."""
    with servers(2) as (a, b):
        for server in (a, b):
            server.fault(code="UNAVAILABLE", details="overloaded", trailing_metadata=(("who", server.name),))
        async with channel_to(a, b) as channel:
            await all_ready(channel, 2)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "overloaded"
            assert str(caught.value).startswith("UNAVAILABLE after 3 attempts on 2 endpoints (")
            assert str(caught.value).endswith(" overloaded")
            assert "who" in dict(caught.value.trailing_metadata())
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")


async def test_no_call_fails_when_a_server_is_killed() -> None:
    """Calls inside a killed server end on the other, and later calls are not affected."""
    with ProcessServer() as a, ProcessServer() as b:
        async with channel_to(a, b, retry_budget=None) as channel:
            await all_ready(channel, 2)
            stub = channel.unary_unary(echo.UNARY)
            calls = [
                stub(b"x", metadata=((echo.DELAY_MS, "50"), (echo.REQUEST_ID, str(n))), timeout=PATIENCE)
                for n in range(20)
            ]
            await asyncio.to_thread(a.wait_until, lambda s: len(s.unfinished) > 5)
            assert await asyncio.to_thread(a.kill)
            assert await asyncio.gather(*calls) == [b"x"] * 20
            assert await asyncio.gather(*(stub(b"x", timeout=PATIENCE) for _ in range(20))) == [b"x"] * 20
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")


async def test_deadlines() -> None:
    """In flight the error is grpc's own; while no host is ready it gives the reason."""
    with Server() as server:
        server.fault(hang=True)
        async with channel_to(server) as channel:
            call = channel.unary_unary(echo.UNARY)(b"x", timeout=0.05)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert call.time_remaining() == 0
            await asyncio.to_thread(server.stop)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(echo.UNARY)(b"x", timeout=0.2, wait_for_ready=True)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert server.address in caught.value.details()


async def test_a_dead_service_is_told_and_waiting_for_it_pays() -> None:
    """Fail-fast gives UNAVAILABLE with the reason; wait_for_ready is answered when the server returns."""
    with Server() as server:
        server.stop()
        async with channel_to(server) as channel:
            stub = channel.unary_unary(echo.UNARY)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub(b"x", timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            waiting = stub(b"x", wait_for_ready=True, timeout=PATIENCE)
            server.start()
            assert await waiting == b"x"


async def test_a_per_attempt_timeout_moves_on() -> None:
    """A host that does not answer in time is dropped for another."""
    with servers(2) as (a, b):
        a.fault(hang=True)
        policy = meshlib.RetryPolicy(initial_backoff=0.001, per_attempt_timeout=0.5)
        async with channel_to(a, b, retry=policy) as channel:
            await all_ready(channel, 2)
            for _ in range(4):
                assert await channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE) == b"x"


async def test_the_first_hedge_that_answers_wins_and_the_other_is_cancelled() -> None:
    """The slow attempt is cancelled at its server, and its in-flight count drops."""
    with servers(2) as (a, b):
        a.fault(hang=True)
        async with channel_to(a, b, retry=meshlib.HedgingPolicy(hedging_delay=0.01), retry_budget=None) as channel:
            await all_ready(channel, 2)
            calls = [channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE) for _ in range(4)]
            assert await asyncio.gather(*calls) == [b"x"] * 4
            assert any(len(call.mesh.attempts) == 2 for call in calls)
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")
            await asyncio.to_thread(a.wait_until, lambda s: s.in_flight == 0)


async def test_cancel_ends_it_at_once() -> None:
    """The status is set when ``cancel`` returns; awaiting the call raises ``CancelledError``."""
    with Server() as server:
        server.fault(hang=True)
        async with channel_to(server) as channel:
            await all_ready(channel, 1)
            call = channel.unary_unary(echo.UNARY)(b"x")
            told: list[Any] = []
            call.add_done_callback(told.append)
            waiting = asyncio.ensure_future(call.code())
            await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
            assert call.cancel()
            assert told == [call]
            assert (call.done(), call.cancelled(), call.cancel()) == (True, True, False)
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await waiting is grpc.StatusCode.CANCELLED
            assert await call.details() == "Locally cancelled by application!"
            assert tuple(await call.initial_metadata()) == tuple(await call.trailing_metadata()) == ()
            call.add_done_callback(told.append)
            assert told == [call, call]
            await aio_until(lambda: in_flight(channel) == 0, "its place is freed")
            await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 0)


async def test_cancelling_a_task_cancels_what_it_awaits() -> None:
    """Cancelling a task cancels the call, in flight or queued; other tasks that await it are notified."""
    with Server() as server:
        server.fault(hang=True)
        async with channel_to(server) as channel:

            async def wait(call: Any) -> Any:
                return await call

            call = channel.unary_unary(echo.UNARY)(b"x", wait_for_ready=True)
            first, second = asyncio.ensure_future(wait(call)), asyncio.ensure_future(wait(call))
            await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
            first.cancel()
            results = await asyncio.gather(first, second, return_exceptions=True)
            assert [type(result) for result in results] == [asyncio.CancelledError] * 2
            assert call.cancelled()
            await asyncio.to_thread(server.stop)
            call = channel.unary_unary(echo.UNARY)(b"x", wait_for_ready=True)
            third = asyncio.ensure_future(wait(call))
            await asyncio.sleep(0)
            third.cancel()
            with pytest.raises(asyncio.CancelledError):
                await third
            assert call.cancelled()


async def test_a_call_nobody_holds_runs_to_its_end() -> None:
    """Fire and forget works as in grpc.aio, even while the call waits for its first host."""
    with Server() as server:
        async with channel_to(server) as channel:
            channel.unary_unary(echo.UNARY)(b"x", metadata=((echo.DELAY_MS, "20"),))
            gc.collect()
            await asyncio.to_thread(server.wait_until, lambda s: s.calls[echo.UNARY] == 1)
            await aio_until(lambda: channel.mesh.snapshot().hosts[0].successes == 1, "it ended well")


@pytest.mark.shares_process_state  # grpc.aio never frees a call whose metadata it could not send
async def test_what_the_application_gets_wrong_is_answered_as_in_grpc() -> None:
    """Bad metadata, non-bytes requests and raising serializers are answered as in grpc; no in-flight count leaks."""

    def raises(_: Any) -> Any:
        raise KeyError("mine")

    with Server() as server:
        async with channel_to(server) as channel:
            await all_ready(channel, 1)
            stub = channel.unary_unary(echo.UNARY)
            with pytest.raises(TypeError, match="Expected str, not <class 'int'>"):
                await stub(b"x", metadata=(("key", 1),))
            with pytest.raises(ValueError, match="not enough values to unpack"):
                stub(b"x", metadata="abc")
            with pytest.raises(TypeError, match="expected bytes, got int"):
                await stub(5)
            assert await channel.unary_unary(echo.UNARY, request_serializer=raises)(b"x") == b""
            assert await channel.unary_unary(echo.UNARY, response_deserializer=raises)(b"x") is None
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")


async def test_pushback_is_obeyed() -> None:
    """A call whose server forbids a retry is not retried."""
    with Server() as server:
        server.fault(code="UNAVAILABLE", trailing_metadata=(("grpc-retry-pushback-ms", "-1"),))
        async with channel_to(server) as channel:
            call = channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert call.mesh.why == "server pushback forbids a retry"
        assert server.calls.total() == 1


async def test_a_callback_that_raises_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    """A raising callback is the application's fault: it is logged, and the next one runs."""
    with Server() as server:
        async with channel_to(server, retry=QUICK) as channel:
            call = channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
            told: list[Any] = []

            def raises(_: Any) -> None:
                raise KeyError("mine")

            call.add_done_callback(raises)
            call.add_done_callback(told.append)
            assert await call == b"x"
            assert told == [call]
            assert "a done callback raised" in caplog.text
            # A record keeps the traceback, and with it the calling grpc channel.
            caplog.clear()


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_a_cancel_that_a_server_tells_is_no_cancel_of_the_application(kind: str) -> None:
    """Whatever the details, grpc's error is raised, and not ``CancelledError``."""

    async def told(context: Any) -> bytes:
        await context.abort(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        return b""

    async def one(_: Any, context: Any) -> bytes:
        return await told(context)

    async def many(_: Any, context: Any) -> AsyncIterator[bytes]:
        yield await told(context)

    server = grpc.aio.server()
    handler = getattr(grpc, f"{kind}_rpc_method_handler")(many if kind.endswith("stream") else one)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Cancels", {"Call": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with meshlib.aio.channel(f"static:///127.0.0.1:{port}") as channel:
            request: Any = iter([b"x"]) if kind.startswith("stream") else b"x"
            call = getattr(channel, kind)("/test.Cancels/Call")(request, timeout=PATIENCE)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call.read() if kind.endswith("stream") else call)
            assert caught.value.code() is grpc.StatusCode.CANCELLED
            assert await call.details() == "Locally cancelled by application!"
    finally:
        await server.stop(None)


async def test_telemetry_that_quits_leaves_no_call_unfinished() -> None:
    """An exception that no guard may catch reaches only the loop: waiters for the call wake, and its callbacks run."""

    class Quit(BaseException):
        """Raised as by a timeout library or a test runner."""

    class Quits(SpanProcessor):
        def on_end(self, span: Any) -> None:
            raise Quit

    heard: list[type[BaseException]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(type(context["exception"])))
    provider = TracerProvider()
    provider.add_span_processor(Quits())
    with Server() as server:
        async with channel_to(server, tracer_provider=provider) as channel:
            async with asyncio.timeout(PATIENCE):
                call = channel.unary_unary(echo.UNARY)(b"x")
                done = asyncio.Event()
                call.add_done_callback(lambda _: done.set())
                assert await call == b"x"
                await done.wait()
    assert heard == [Quit]


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary"])
async def test_who_gives_up_waiting_is_forgotten(kind: str) -> None:
    """An application that awaits a call repeatedly with its own timeout leaves nothing behind in it."""
    with Server() as server:
        server.fault(hang=True)
        async with channel_to(server) as channel:
            await all_ready(channel, 1)
            method = {"unary_unary": echo.UNARY, "unary_stream": echo.SERVER_STREAM, "stream_unary": echo.CLIENT_STREAM}
            request: Any = None if kind == "stream_unary" else b"x"
            call = getattr(channel, kind)(method[kind])(request, timeout=PATIENCE)
            for _ in range(20):
                waiting = asyncio.ensure_future(call.code())
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert not call.done()
            engine = call if kind == "unary_unary" else call._engine
            assert not engine.condition._waiters
            call.cancel()
            # A completion after the end of the loop is lost, and keeps C-core running. They arrive in order.
            await aio_until(lambda: server.in_flight == 0, "the server has seen the end of the call")
            server.heal()
            assert await channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE) == b"x"
