"""Third-party client libraries, unchanged over meshlib: aetcd on three real members, and google-api-core."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aetcd
import grpc
import pytest
from google.api_core import exceptions, gapic_v1, grpc_helpers, grpc_helpers_async
from google.api_core.retry import Retry, if_exception_type
from google.api_core.retry_async import AsyncRetry
from google.api_core.timeout import TimeToDeadlineTimeout
from tests.e2e.etcd import Etcd

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo, servers

DEADLINE = 20.0


# --- aetcd ---------------------------------------------------------------------------


@pytest.fixture
def etcd(require_real: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Etcd]:
    """One cluster of three members behind the name etcd."""
    with Etcd(require_real("etcd", "etcd-server"), tmp_path, clustered=True) as cluster:
        monkeypatch.setenv("MESHLIB_ETCD_ENDPOINTS", ",".join(cluster.addresses))
        yield cluster


async def test_aetcd_outlives_each_member_of_its_cluster(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three members are killed in turn; one client continues with the others, and reads back its writes."""
    monkeypatch.setattr(aetcd.rpc, "insecure_channel", meshlib.aio.insecure_channel)

    async def until_done(call: Callable[[], Any]) -> Any:
        """Repeat while a call may fail: with the member that it was on, or while there is no leader."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return await call()
            except aetcd.exceptions.ClientError:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)

    async with aetcd.Client(host="etcd", port=etcd.port, timeout=2) as client:
        for n, member in enumerate(etcd.members):
            key, value = f"key-{n}".encode(), f"value-{n}".encode()
            await until_done(lambda key=key: client.put(key, b"before"))
            member.kill()
            await until_done(lambda key=key, value=value: client.put(key, value))
            found = await until_done(lambda key=key: client.get(key))
            assert found.value == value
            member.start()
        pairs = await until_done(lambda: client.get_prefix(b"key-"))
        assert {pair.key: pair.value for pair in pairs} == {
            f"key-{n}".encode(): f"value-{n}".encode() for n in range(3)
        }


# --- google-api-core -----------------------------------------------------------------


def again(kind: Any) -> Any:
    """The retry of a generated client's idempotent methods."""
    return kind(
        predicate=if_exception_type(exceptions.ServiceUnavailable), initial=0.001, maximum=0.01, timeout=DEADLINE
    )


@pytest.fixture
def both() -> Iterator[tuple[Server, Server]]:
    """Two servers of one service."""
    with servers(2) as (first, second):
        yield first, second


def target(both: tuple[Server, Server]) -> str:
    """Both as one target."""
    return "static:///" + ",".join(server.address for server in both)


def test_a_transport_of_google_api_core(both: tuple[Server, Server]) -> None:
    """Transport methods answer, retry by their own policy, and raise their own exceptions; routing headers arrive."""
    with meshlib.insecure_channel(target(both)) as channel:
        method = gapic_v1.method.wrap_method(
            channel.unary_unary(echo.UNARY), default_retry=again(Retry), default_timeout=TimeToDeadlineTimeout(DEADLINE)
        )
        assert method(b"x", metadata=[gapic_v1.routing_header.to_grpc_metadata({"name": "a/b"})]) == b"x"
        for server in both:
            server.fault(code="UNAVAILABLE", times=1)
        assert method(b"y") == b"y"
        for server in both:
            server.fault(code="NOT_FOUND", details="no such thing")
        with pytest.raises(exceptions.NotFound, match="no such thing") as caught:
            method(b"z")
        assert caught.value.grpc_status_code is grpc.StatusCode.NOT_FOUND
        for server in both:
            server.heal()
        stream = grpc_helpers.wrap_errors(channel.unary_stream(echo.SERVER_STREAM))
        assert list(stream(b"s", timeout=DEADLINE)) == [b"s"] * 3


async def test_an_asyncio_transport_of_google_api_core(both: tuple[Server, Server]) -> None:
    """The same in asyncio; its interceptor is appended to the channel's list, as generated transports do."""
    seen: list[str] = []

    class Logging(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.append(details.method if isinstance(details.method, str) else details.method.decode())
            return await continuation(details, request)

    async with aio.insecure_channel(target(both)) as channel:
        transport: Any = channel
        transport._unary_unary_interceptors.append(Logging())
        method = gapic_v1.method_async.wrap_method(
            channel.unary_unary(echo.UNARY),
            default_retry=again(AsyncRetry),
            default_timeout=TimeToDeadlineTimeout(DEADLINE),
        )
        assert await method(b"x") == b"x"
        assert seen == [echo.UNARY]
        for server in both:
            server.fault(code="UNAVAILABLE", times=1)
        assert await method(b"y") == b"y"
        for server in both:
            server.fault(code="NOT_FOUND", details="no such thing")
        with pytest.raises(exceptions.NotFound, match="no such thing"):
            await method(b"z")
        for server in both:
            server.heal()
        stream = grpc_helpers_async.wrap_errors(channel.unary_stream(echo.SERVER_STREAM))
        assert [message async for message in await stream(b"s", timeout=DEADLINE)] == [b"s"] * 3
