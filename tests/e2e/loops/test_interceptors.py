"""Interceptors of an asyncio channel, of calls and of attempts."""

import asyncio
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, QUICK, all_ready, channel_to, target
from tests.e2e.loops.channels import hello

import meshlib
import meshlib.aio
from meshlib.testing import Server, echo, servers


class Everywhere(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """Serves all four kinds and counts."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def _mark(self, kind: str, details: Any) -> Any:
        self.seen.append(kind)
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("seen", kind))
        return details._replace(metadata=metadata)

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._mark("unary_unary", client_call_details), request)

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._mark("unary_stream", client_call_details), request)

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._mark("stream_unary", client_call_details), request_iterator)

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._mark("stream_stream", client_call_details), request_iterator)


@pytest.mark.parametrize("scope", ["interceptors", "attempt_interceptors"])
async def test_one_interceptor_serves_all_kinds(scope: str) -> None:
    """One interceptor runs once per call, or once per attempt; both styles of streams work through it."""
    with servers(2) as (a, b):
        for server in (a, b):
            server.fault(code="UNAVAILABLE", times=1)
        marker = Everywhere()
        async with channel_to(a, b, retry=QUICK, **{scope: [marker]}) as channel:
            await all_ready(channel, 2)
            assert await hello(channel) == b"x"
            assert marker.seen == ["unary_unary"] * (1 if scope == "interceptors" else 3)
            marker.seen.clear()
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            assert [message async for message in call] == [b"x"] * 3
            call = channel.stream_unary(echo.CLIENT_STREAM)(iter([b"1", b"2"]), timeout=PATIENCE)
            assert await call == b"12"
            call = channel.stream_unary(echo.CLIENT_STREAM)(timeout=PATIENCE)
            await call.write(b"1")
            await call.done_writing()
            assert await call == b"1"
            call = channel.stream_stream(echo.BIDI_STREAM)(timeout=PATIENCE)
            await call.write(b"1")
            assert await call.read() == b"1"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert marker.seen == ["unary_stream", "stream_unary", "stream_unary", "stream_stream"]
        received = [value for s in (a, b) for r in s.received for key, value in r.metadata if key == "seen"]
        assert len(received) == len(a.received) + len(b.received)


async def test_interceptors_may_change_the_method_and_fail_the_call() -> None:
    """The innermost call is the mesh's: errors, closing and cancelling reach it."""

    class Other(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await continuation(client_call_details._replace(method=echo.UNARY.encode()), request)

    with Server() as server:
        channel = meshlib.aio.channel(target(server), interceptors=[Other()])
        for _ in range(3):
            assert await channel.unary_unary("/nobody/Home")(b"x", timeout=PATIENCE) == b"x"
        (host,) = channel._lease.runtime().cluster.hosts
        subchannel: Any = host.subchannel
        assert len(subchannel.multicallables) == 1, "one method, made once"
        server.fault(code="NOT_FOUND", times=1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        server.fault(hang=True)
        call = channel.unary_unary(echo.UNARY)(b"x")
        await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
        await channel.close()
        assert call.cancelled()
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            channel.unary_unary(echo.UNARY)(b"x")


def test_what_is_no_interceptor_is_refused() -> None:
    """A non-interceptor is rejected at construction, as in grpc.aio."""
    with pytest.raises(ValueError, match="must be a UnaryUnaryClientInterceptor or"):
        meshlib.aio.channel("static:///127.0.0.1:1", interceptors=[object()])
    with pytest.raises(ValueError, match="must be a UnaryUnaryClientInterceptor or"):
        meshlib.aio.channel("static:///127.0.0.1:1", attempt_interceptors=[object()])
