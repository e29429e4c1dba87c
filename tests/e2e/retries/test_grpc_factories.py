"""The replacements of grpc's factories run no call twice that grpc runs once."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.e2e.certificates import TRUST, tls_server
from tests.e2e.load import SHELLS, Shell

import meshlib
import meshlib.aio
from meshlib.testing import echo, servers

PATIENCE = 10.0
both_shells = pytest.mark.parametrize("shell", SHELLS)


async def call(shell: Shell, channel: Any) -> Any:
    """Make one call; returns ``.mesh`` of the call, or of its error."""
    stub = channel.unary_unary(echo.UNARY)
    try:
        if shell == "sync":
            return (await asyncio.to_thread(stub.with_call, b"x", timeout=PATIENCE))[1].mesh
        made = stub(b"x", timeout=PATIENCE)
        await made
    except grpc.RpcError as error:
        return error.mesh  # type: ignore[attr-defined]
    return made.mesh


@asynccontextmanager
async def opened(shell: Shell, make: Callable[[Any], Any]) -> AsyncIterator[Any]:
    """The channel that ``make`` creates from the factories of the shell, closed at the end."""
    if shell == "aio":
        async with make(meshlib.aio) as channel:
            yield channel
        return
    channel = make(meshlib)
    try:
        yield channel
    finally:
        await asyncio.to_thread(channel.close)


@both_shells
async def test_a_failure_that_a_server_may_have_seen_is_not_retried(shell: Shell) -> None:
    """One attempt, as with grpc; ``meshlib.channel`` to the same server makes three."""
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE")
        async with opened(shell, lambda module: module.insecure_channel(server.address)) as channel:
            mesh = await call(shell, channel)
        assert server.calls[echo.UNARY] == 1
        assert [attempt.sent for attempt in mesh.attempts] == [True]
        assert mesh.why == "the attempt may have reached a server, and unsent_only=True"
        async with opened(shell, lambda module: module.channel(f"static:///{server.address}")) as channel:
            mesh = await call(shell, channel)
        assert len(mesh.attempts) == 3


@both_shells
async def test_the_same_with_tls(shell: Shell) -> None:
    """``secure_channel`` has the same policy."""
    with tls_server("localhost") as server:
        server.fault(code="UNAVAILABLE")
        target = f"localhost:{server.port}"
        async with opened(shell, lambda module: module.secure_channel(target, TRUST)) as channel:
            mesh = await call(shell, channel)
        assert (server.calls[echo.UNARY], len(mesh.attempts)) == (1, 1)


@both_shells
async def test_what_was_never_sent_is_retried(shell: Shell) -> None:
    """No call fails because a host refuses connections while another answers."""
    with servers(2) as (well, gone):
        gone.stop()
        target = f"static:///{gone.address},{well.address}"
        async with opened(shell, lambda module: module.insecure_channel(target)) as channel:
            meshes = [await call(shell, channel) for _ in range(6)]
        assert [mesh.attempts[-1].code for mesh in meshes] == ["OK"] * 6
        assert all(not attempt.sent for mesh in meshes for attempt in mesh.attempts[:-1])


@both_shells
async def test_a_service_config_of_the_application_is_obeyed(shell: Shell) -> None:
    """A ``retryPolicy`` in grpc's option causes those retries, as with grpc."""
    policy = {
        "maxAttempts": 2, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }  # fmt: skip
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    options = [("grpc.service_config", config)]
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE")
        async with opened(shell, lambda module: module.insecure_channel(server.address, options)) as channel:
            await call(shell, channel)
        assert server.calls[echo.UNARY] == 2


@both_shells
@pytest.mark.parametrize("kind", ["unary_stream", "stream_unary", "stream_stream"])
async def test_streams_are_not_retried_either(shell: Shell, kind: str) -> None:
    """Calls with a stream of requests or of responses are not retried either."""
    method = {"unary_stream": echo.SERVER_STREAM, "stream_unary": echo.CLIENT_STREAM, "stream_stream": echo.BIDI_STREAM}
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE")
        async with opened(shell, lambda module: module.insecure_channel(server.address)) as channel:
            stub = getattr(channel, kind)(method[kind])
            with pytest.raises(grpc.RpcError):
                await _drained(shell, kind, stub)
        assert server.calls[method[kind]] == 1


async def _drained(shell: Shell, kind: str, stub: Any) -> None:
    request = b"x" if kind.startswith("unary") else iter([b"x", b"y"])
    if shell == "sync":

        def read() -> None:
            made = stub(request, timeout=PATIENCE)
            if kind.endswith("stream"):
                list(made)

        await asyncio.to_thread(read)
        return
    made = stub(request, timeout=PATIENCE)
    if kind.endswith("stream"):
        async for _ in made:
            pass
    else:
        await made
