"""``compression`` of the channel and of the call, measured on the wire."""

from typing import Any

import grpc
import grpc.aio
import pytest
from tests.e2e.aio_world import PATIENCE
from tests.e2e.callers import caller
from tests.e2e.kinds import KINDS, METHODS, all_answers, expected, starters
from tests.e2e.load import SHELLS, Shell
from tests.e2e.relay import Relay

import meshlib
from meshlib.testing import Server, echo

ZEROS = bytes(100_000)
SMALL = 10_000
"""Bytes: far more than headers, settings and the compressed zeros together, far fewer than the zeros."""

NONE, DEFLATE, GZIP = grpc.Compression.NoCompression, grpc.Compression.Deflate, grpc.Compression.Gzip


def arguments(compression: grpc.Compression | None) -> dict[str, Any]:
    """Arguments of a channel or of a call; None: the application gives none."""
    return {} if compression is None else {"compression": compression}


async def sent(channel: Any, relay: Relay, shell: Shell, kind: str, call: grpc.Compression | None) -> int:
    """Bytes on the wire for a call with the zeros; the relay must be unused."""
    made = starters(channel, shell)[kind]([ZEROS], timeout=PATIENCE, **arguments(call))
    assert await all_answers(shell, kind, made) == expected(kind, [ZEROS])
    return relay.up


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("channel", "call", "small"),
    [
        (None, None, False),
        (GZIP, None, True),
        (DEFLATE, None, True),
        (None, GZIP, True),
        (None, DEFLATE, True),
        (NONE, GZIP, True),
        (NONE, None, False),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
async def test_requests_are_compressed_as_asked(
    shell: Shell, channel: grpc.Compression | None, call: grpc.Compression | None, small: bool, kind: str
) -> None:
    """Requests are small on the wire, or uncompressed, as asked; the same message arrives."""
    with Server() as server, Relay(server.address) as relay:
        async with caller(shell, name=f"static:///{relay.address}", **arguments(channel)) as it:
            assert (await sent(it.channel, relay, shell, kind, call) < SMALL) is small, relay.up


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shell", SHELLS)
async def test_where_grpc_has_ways_of_its_own_they_stay(shell: Shell, kind: str) -> None:
    """``NoCompression`` of a call does not override the channel's in grpc; meshlib always does the same as grpc."""
    channel, call = GZIP, NONE
    with Server() as server, Relay(server.address) as relay:
        async with caller(shell, name=f"static:///{relay.address}", **arguments(channel)) as it:
            ours = await sent(it.channel, relay, shell, kind, call)
    with Server() as server, Relay(server.address) as relay:
        if shell == "sync":
            with grpc.insecure_channel(relay.address, **arguments(channel)) as native:
                theirs = await sent(native, relay, shell, kind, call)
        else:
            async with grpc.aio.insecure_channel(relay.address, **arguments(channel)) as native:
                theirs = await sent(native, relay, shell, kind, call)
    assert (ours < SMALL) is (theirs < SMALL), (ours, theirs)


class _Sync(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    """Continues the call unchanged."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        assert details.compression is GZIP
        assert not any(key.startswith("grpc-internal") for key, _ in details.metadata or ())
        return continuation(details, request)

    intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = intercept_unary_unary


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    """The same in asyncio, where one class has one kind."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["interceptors", "attempt_interceptors"])
@pytest.mark.parametrize("shell", SHELLS)
async def test_interceptors_do_not_lose_the_compression(shell: Shell, where: str, kind: str) -> None:
    """Interceptors of the call or of its attempts keep the compression, and see the application's value."""
    given: list[Any] = (
        [_Sync()] if shell == "sync" else [_UnaryUnary(), _UnaryStream(), _StreamUnary(), _StreamStream()]
    )
    with Server() as server, Relay(server.address) as relay:
        async with caller(shell, name=f"static:///{relay.address}", **{where: given}) as it:
            assert await sent(it.channel, relay, shell, kind, GZIP) < SMALL


@pytest.mark.parametrize("scope", ["channel", "call"])
@pytest.mark.parametrize("shell", SHELLS)
async def test_retries_are_compressed_too(shell: Shell, scope: str) -> None:
    """Each attempt has the call's compression."""
    channel, call = (GZIP, None) if scope == "channel" else (None, GZIP)
    with Server() as server, Relay(server.address) as relay:
        server.fault(code="UNAVAILABLE", after=1, times=2)
        async with caller(shell, name=f"static:///{relay.address}", **arguments(channel)) as it:
            assert await sent(it.channel, relay, shell, "unary_unary", call) < SMALL
        assert server.calls[echo.UNARY] == 3


@pytest.mark.parametrize("compression", [GZIP, None])
@pytest.mark.parametrize("scope", ["channel", "call"])
@pytest.mark.parametrize("way", ["__call__", "with_call"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_blocking_calls_are_compressed(kind: str, way: str, scope: str, compression: grpc.Compression | None) -> None:
    """Blocking calls are compressed: the sync shell has further code paths for them, beside the future's."""
    channel, call = (compression, None) if scope == "channel" else (None, compression)
    with (
        Server() as server,
        Relay(server.address) as relay,
        meshlib.channel(f"static:///{relay.address}", **arguments(channel)) as mesh,
    ):
        made = getattr(getattr(mesh, kind)(METHODS[kind]), way)
        answer = made(ZEROS if kind == "unary_unary" else iter([ZEROS]), timeout=PATIENCE, **arguments(call))
        assert (answer if way == "__call__" else answer[0]) == ZEROS
        assert (relay.up < SMALL) is (compression is not None), relay.up
