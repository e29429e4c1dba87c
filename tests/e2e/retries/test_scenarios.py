"""Scenarios of other implementations on real servers; ``tests/core/scenarios.toml`` names them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.e2e.aio_world import PATIENCE, target
from tests.e2e.load import SHELLS, Shell
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import Server, echo, servers

pytestmark = pytest.mark.parametrize("shell", SHELLS)

ABORTED = frozenset({"ABORTED"})
BIG = b"x" * 100_000
"""More than a server takes unread: requests of this size are buffered at the client."""


@asynccontextmanager
async def channel(shell: Shell, to: str, **options: Any) -> AsyncIterator[Any]:
    """A channel of either kind, closed at the end."""
    options.setdefault("retry", meshlib.RetryPolicy(initial_backoff=0.001, max_backoff=0.002))
    if shell == "aio":
        async with meshlib.aio.channel(to, **options) as made:
            yield made
        return
    plain = meshlib.channel(to, **options)
    try:
        yield plain
    finally:
        await asyncio.to_thread(plain.close)


async def code_of(call: Any) -> str:
    """The status code of a call of either kind, once it has one."""
    if isinstance(call, grpc.aio.Call):
        code = await call.code()
    else:
        code = await asyncio.to_thread(call.code)
    return str(code.name)


async def result(call: Any) -> Any:
    """The response of a call of either kind."""
    if isinstance(call, grpc.aio.Call):
        return await call  # type: ignore[misc]
    return await asyncio.to_thread(call.result, PATIENCE)


async def messages(call: Any) -> list[bytes]:
    """The responses of a call of either kind."""
    if isinstance(call, grpc.aio.Call):
        return [message async for message in call]  # type: ignore[attr-defined]
    return await asyncio.to_thread(list, call)


def unary(made: Any, method: str = echo.UNARY, request: bytes = b"x", **options: Any) -> Any:
    """Start a call with one request and one response."""
    options.setdefault("timeout", PATIENCE)
    stub = made.unary_unary(method)
    return (stub if isinstance(made, grpc.aio.Channel) else stub.future)(request, **options)


def idle(made: Any) -> bool:
    """Whether no attempt is in flight."""
    return all(host.in_flight == 0 for host in made.mesh.snapshot().hosts)


class Source:
    """Endless requests, and the number taken."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.taken += 1
            yield self.request


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_call_ends_with_requests_still_to_send(shell: Shell, how: str) -> None:
    """C-core: retry_cancel_with_multiple_send_batches. After a retry, and while its server reads no more."""
    source = Source(BIG)
    retry = meshlib.RetryPolicy(initial_backoff=0.001, buffer_size=10**7)
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE", times=1)
        server.fault(hang=True)
        async with channel(shell, target(server), retry=retry) as made:
            stub = made.stream_unary(echo.CLIENT_STREAM)
            start = stub if shell == "aio" else stub.future
            call = start(iter(source), timeout=PATIENCE if how == "cancel" else 0.5)
            await asyncio.to_thread(server.wait_until, lambda server: server.in_flight == 1)
            await aio_until(lambda: len(call.mesh.attempts) == 2 and source.taken > 1, "some requests are on their way")
            if how == "cancel":
                assert call.cancel()
            assert await code_of(call) == {"cancel": "CANCELLED", "deadline": "DEADLINE_EXCEEDED"}[how]
            assert len(call.mesh.attempts) == 2
            await asyncio.to_thread(server.wait_until, lambda server: server.in_flight == 0)
            await aio_until(lambda: idle(made), "its place is free")


class _Verdict(grpc.RpcError):
    """The status that replaces the server's in a grpc interceptor."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner = inner

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INVALID_ARGUMENT

    def details(self) -> str:
        return "by the interceptor"

    def result(self, timeout: float | None = None) -> Any:
        raise self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Judge(grpc.UnaryUnaryClientInterceptor):
    """Replaces the server's ABORTED with INVALID_ARGUMENT."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        return _Verdict(call) if call.code() is grpc.StatusCode.ABORTED else call


class _AioJudge(grpc.aio.UnaryUnaryClientInterceptor):
    """The same in asyncio, where an interceptor raises the status."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        if await call.code() is grpc.StatusCode.ABORTED:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.INVALID_ARGUMENT, nothing, nothing, "by the interceptor")
        return call


async def test_the_status_is_what_an_attempt_interceptor_makes_of_it(shell: Shell) -> None:
    """C-core: retry_recv_trailing_metadata_error. The policy judges INVALID_ARGUMENT, not the server's ABORTED."""
    retry = meshlib.RetryPolicy(initial_backoff=0.001, retryable_status_codes=ABORTED)
    judge: Any = _Judge() if shell == "sync" else _AioJudge()
    with servers(1) as (server,):
        server.fault(code="ABORTED", times=1)
        async with channel(shell, target(server), retry=retry, attempt_interceptors=[judge]) as made:
            if shell == "sync":
                stub = made.unary_unary(echo.UNARY)
                with pytest.raises(grpc.RpcError) as caught:
                    await asyncio.to_thread(stub, b"x", timeout=PATIENCE)
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    await unary(made)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == "by the interceptor"
            assert [attempt.code for attempt in error.mesh.attempts] == ["INVALID_ARGUMENT"]
            assert error.mesh.why == "INVALID_ARGUMENT is not retried"
            assert await result(unary(made)) == b"x"
            assert idle(made)


def _reads(counts: list[int]) -> Callable[[grpc.Server], None]:
    """A stream of requests whose first call fails after reading three, and whose next one reads one and succeeds."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        first = not counts
        counts.append(0)
        for _ in range(3 if first else 1):
            next(requests)
            counts[-1] += 1
        if first:
            context.abort(grpc.StatusCode.UNAVAILABLE, "three were enough")
        yield b"one will do"

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Call": grpc.stream_stream_rpc_method_handler(handle)}

    def add(server: grpc.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Reads", handlers),))

    return add


async def test_a_retry_that_ends_before_all_was_replayed(shell: Shell) -> None:
    """C-core: retry_streaming_succeeds_before_replay_finished. Its OK ends the call and the replay: neither the
    buffered requests nor the application's iterator are needed any more."""
    counts: list[int] = []
    gate = threading.Event()

    def three() -> Iterator[bytes]:
        yield from [BIG] * 3
        gate.wait(PATIENCE)

    async def aio_three() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield BIG
        await asyncio.to_thread(gate.wait, PATIENCE)

    retry = meshlib.RetryPolicy(max_attempts=10, initial_backoff=0.001, buffer_size=10**6)
    with Server(add=_reads(counts)) as server:
        async with channel(shell, target(server), retry=retry) as made:
            requests: Any = three() if shell == "sync" else aio_three()
            call = made.stream_stream("/test.Reads/Call")(requests, timeout=PATIENCE)
            try:
                assert await messages(call) == [b"one will do"]
                assert await code_of(call) == "OK"
                assert counts[0] == 3
                assert set(counts[1:]) == {1}
                if shell == "sync":  # grpc.aio may lose the OK to a write that fails ("Internal error from Core")
                    assert [attempt.code for attempt in call.mesh.attempts] == ["UNAVAILABLE", "OK"]
                await aio_until(lambda: idle(made), "its place is free")
            finally:
                gate.set()


@pytest.mark.parametrize("retries", [False, True])
async def test_a_call_that_waits_for_a_stream_moves_to_the_next_connection(shell: Shell, retries: bool) -> None:
    """C-core: retry_transparent_max_concurrent_streams. A server takes one call at a time; when its connection ends,
    the queued call is answered on the next, whatever the retry policy: no server has seen it."""
    retry = meshlib.RetryPolicy(initial_backoff=0.001) if retries else None
    with Server(options=[("grpc.max_concurrent_streams", 1)]) as server:
        server.fault(hang=True, times=1)
        async with channel(shell, target(server), retry=retry) as made:
            first = unary(made, request=b"first", wait_for_ready=True)
            await asyncio.to_thread(server.wait_until, lambda server: server.in_flight == 1)
            queued = unary(made, request=b"queued", wait_for_ready=True)
            await aio_until(lambda: made.mesh.snapshot().hosts[0].in_flight == 2, "it waits for a stream")
            assert server.calls.total() == 1
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            assert await result(queued) == b"queued"
            assert await code_of(first) == ("OK" if retries else "UNAVAILABLE")
            await aio_until(lambda: idle(made), "their places are free")


class _Named:
    """A resolver whose endpoints have names of their own."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self._endpoints = endpoints

    def resolve(self, previous: Resolution | None) -> Resolution:
        return Resolution(endpoints=self._endpoints)


def _authorities(seen: list[str]) -> Callable[[grpc.Server], None]:
    """A failing method that records the ``:authority`` of its calls, which grpc.ServicerContext does not offer."""

    def handle(_: bytes, context: Any) -> bytes:
        seen.append(str(context._rpc_event.call_details.host, "ascii"))
        context.abort(grpc.StatusCode.UNAVAILABLE, "elsewhere")
        return b""

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Call": grpc.unary_unary_rpc_method_handler(handle)}

    def add(server: grpc.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Authority", handlers),))

    return add


async def test_each_attempt_has_the_authority_of_its_host(shell: Shell) -> None:
    """Go: TestAuthorityOverrideNotReusedAcrossAttempts. The first attempt's authority is not the next one's."""
    seen: dict[str, list[str]] = {"a": [], "b": []}
    with Server(add=_authorities(seen["a"])) as a, Server(add=_authorities(seen["b"])) as b:
        named = _Named(Endpoint(address=a.address, authority="a.test"), Endpoint(address=b.address, authority="b.test"))
        async with channel(shell, "svc-a", resolver=named) as made:
            await code_of(unary(made, method="/test.Authority/Call", wait_for_ready=True))
            await aio_until(
                lambda: all(host.state == "READY" for host in made.mesh.snapshot().hosts), "both are connected"
            )
            call = unary(made, method="/test.Authority/Call")
            assert await code_of(call) == "UNAVAILABLE"
            hosts = [attempt.host for attempt in call.mesh.attempts]
        assert len(hosts) == 3
        assert set(hosts) == {a.address, b.address}
        assert set(seen["a"]) == {"a.test"}
        assert set(seen["b"]) == {"b.test"}


async def test_every_attempt_is_told(shell: Shell) -> None:
    """Go: TestRetryStats. Each attempt has its host, reason, time, outcome and duration; the server gets the number of
    attempts before it."""
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE", times=1, delay=0.02)
        server.fault(code="UNAVAILABLE", times=1)
        # C-core strips the number from the metadata while its own retries are on.
        async with channel(shell, target(server), options=[("grpc.enable_retries", 0)]) as made:
            call = unary(made, wait_for_ready=True)
            assert await result(call) == b"x"
            attempts = call.mesh.attempts
        assert [(attempt.why, attempt.code, attempt.host) for attempt in attempts] == [
            ("first", "UNAVAILABLE", server.address),
            ("retry", "UNAVAILABLE", server.address),
            ("retry", "OK", server.address),
        ]
        assert all(attempt.sent for attempt in attempts)
        assert attempts[0].seconds >= 0.02
        for before, after in pairwise(attempts):
            assert before.start + before.seconds <= after.start
        previous = [dict(received.metadata).get("grpc-previous-rpc-attempts") for received in server.received]
        assert previous == [None, "1", "2"]


async def test_the_metadata_of_a_call_is_kept_for_its_retries(shell: Shell) -> None:
    """C-core: retry_send_initial_metadata_refs. The caller may change its list as soon as the call has begun."""
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE", times=1, delay=0.05)
        async with channel(shell, target(server)) as made:
            metadata = [("key", "value"), ("other", "one")]
            call = unary(made, metadata=metadata, wait_for_ready=True)
            await asyncio.to_thread(server.wait_until, lambda server: server.calls.total() == 1)
            metadata.clear()
            assert await result(call) == b"x"
        carried = [[pair for pair in received.metadata if pair[0] in ("key", "other")] for received in server.received]
        assert [[tuple(pair) for pair in each] for each in carried] == [[("key", "value"), ("other", "one")]] * 2
