"""A `grpc.aio` channel itself: its states, its end, and generated code on top of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.e2e.dropin.scenarios import LONG
from tests.e2e.dropin.service import METHODS, SCRIPT, Script, has_none, has_one
from tests.e2e.dropin.subjects import Subject
from tests.waiting import aio_until

from meshlib.testing import Server

WAIT = 10.0  # seconds after which a wait fails
AT_ONCE = 0.05
IDLE, READY = grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.READY
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


def held(channel: grpc.aio.Channel) -> Any:
    """A call that the server holds."""
    return channel.unary_unary(METHODS["unary_unary"])(b"one", metadata=((SCRIPT, Script.HOLD.name),))


async def change_to(channel: grpc.aio.Channel, *wanted: grpc.ChannelConnectivity) -> None:
    """Wait, as applications do, until the channel is in one of these states."""
    async with asyncio.timeout(WAIT):
        while (state := channel.get_state()) not in wanted:
            await channel.wait_for_state_change(state)


async def test_is_a_channel(aio_channel: grpc.aio.Channel) -> None:
    """A channel is accepted as a grpc.aio.Channel."""
    assert isinstance(aio_channel, grpc.aio.Channel)


async def test_get_state(aio_channel: grpc.aio.Channel) -> None:
    """A new channel is idle; a request to connect returns the state before, and then connects."""
    assert aio_channel.get_state() is IDLE
    assert aio_channel.get_state(try_to_connect=True) is IDLE
    await change_to(aio_channel, READY)


async def test_channel_ready(aio_channel: grpc.aio.Channel) -> None:
    """channel_ready() connects and then returns."""
    await asyncio.wait_for(aio_channel.channel_ready(), WAIT)
    assert aio_channel.get_state() is READY


async def test_server_goes_away(aio_channel: grpc.aio.Channel, server: Server) -> None:
    """A wait for a change from READY ends when the server is gone; a failure follows while it stays away."""
    await asyncio.wait_for(aio_channel.channel_ready(), WAIT)
    server.stop()
    await asyncio.wait_for(aio_channel.wait_for_state_change(READY), WAIT)
    aio_channel.get_state(try_to_connect=True)
    await change_to(aio_channel, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(aio_channel.channel_ready(), AT_ONCE)


async def test_restarted_server(aio_channel: grpc.aio.Channel, server: Server) -> None:
    """A channel reconnects to a server that has returned."""
    call = aio_channel.unary_unary(METHODS["unary_unary"])
    assert await call(b"one", timeout=LONG) == b"one"
    server.stop()
    await asyncio.wait_for(aio_channel.wait_for_state_change(READY), WAIT)
    server.start()
    assert await call(b"two", timeout=LONG, wait_for_ready=True) == b"two"


async def test_closed(aio_channel: grpc.aio.Channel) -> None:
    """close() may be called again; a closed channel is shut down and rejects calls and waits."""
    before = aio_channel.unary_unary(METHODS["unary_unary"])
    await aio_channel.close()
    await aio_channel.close()
    assert aio_channel.get_state() is SHUTDOWN
    for multicallable in (before, aio_channel.unary_unary(METHODS["unary_unary"])):
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            multicallable(b"one", timeout=LONG)
    with pytest.raises(grpc.aio.UsageError):
        await aio_channel.wait_for_state_change(IDLE)


async def test_closing_ends_a_watch(aio_channel: grpc.aio.Channel) -> None:
    """Close ends a wait for a change of state."""
    watch = asyncio.create_task(aio_channel.wait_for_state_change(IDLE))
    await asyncio.sleep(0)
    await aio_channel.close()
    await asyncio.wait_for(watch, WAIT)


@pytest.mark.parametrize("grace", [None, 0, AT_ONCE])
async def test_close_with_too_little_grace(aio_channel: grpc.aio.Channel, server: Server, grace: float | None) -> None:
    """Calls that have not ended after the grace are cancelled."""
    call = held(aio_channel)
    await aio_until(lambda: has_one(server))
    await aio_channel.close(grace)
    assert call.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await call
    await aio_until(lambda: has_none(server))


async def test_close_with_grace(aio_channel: grpc.aio.Channel, server: Server) -> None:
    """Calls that end during the grace end normally, and close() waits no longer than for them."""
    call = aio_channel.stream_unary(METHODS["stream_unary"])(timeout=LONG)
    await call.write(b"one")
    await aio_until(lambda: has_one(server))
    closing = asyncio.create_task(aio_channel.close(LONG))
    await asyncio.sleep(0)
    await call.done_writing()
    await asyncio.wait_for(closing, WAIT)
    assert await call == b"one"


async def test_leaving_the_context_closes(subject: Subject, server: Server) -> None:
    """`async with` closes without grace."""
    async with subject.aio_insecure_channel(server.address) as channel:
        call = held(channel)
        await aio_until(lambda: has_one(server))
    assert call.cancelled()
    assert channel.get_state() is SHUTDOWN


@pytest.mark.parametrize("arity", METHODS)
async def test_registered_method(aio_channel: grpc.aio.Channel, arity: str) -> None:
    """Generated code passes a fourth argument, by name or by position."""
    codec: Callable[[bytes], bytes] = bytes.upper
    make = getattr(aio_channel, arity)
    for multicallable in (
        make(METHODS[arity], request_serializer=codec, response_deserializer=codec, _registered_method=True),
        make(METHODS[arity], codec, codec, True),
        make(METHODS[arity], codec, codec),
    ):
        call = multicallable([b"one"] if arity.startswith("stream") else b"one", timeout=LONG)
        assert await (call if arity.endswith("unary") else call.read()) == b"ONE"


async def test_generated_stub(subject: Subject) -> None:
    """A stub generated by protoc calls its service, one message and a stream of them."""
    servicer = health.HealthServicer()
    with Server(add=lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server)) as server:
        async with subject.aio_insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            servicer.set("", health_pb2.HealthCheckResponse.SERVING)
            request = health_pb2.HealthCheckRequest()
            assert (await stub.Check(request, timeout=LONG)).status == health_pb2.HealthCheckResponse.SERVING
            watch = stub.Watch(request, timeout=LONG)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()


async def test_unknown_method(aio_channel: grpc.aio.Channel) -> None:
    """A call of a missing method gets the server's error."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await aio_channel.unary_unary("/dropin.Scripted/Nothing")(b"one", timeout=LONG)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
