"""Non-blocking calls of the sync shell: futures, and streams of requests with one response."""

import gc
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
from tests.e2e.sync_mesh import WAIT, answered, idle, mesh, reported
from tests.waiting import until

import meshlib
from meshlib.testing import echo, flush_logs, servers


def kinds(channel: grpc.Channel) -> dict[str, Callable[..., Any]]:
    """Start functions for each non-blocking kind."""
    unary, joined = channel.unary_unary(echo.UNARY), channel.stream_unary(echo.CLIENT_STREAM)
    return {
        "unary": lambda **options: unary.future(b"x", **options),
        "requests": lambda **options: joined.future(iter([b"x", b"y"]), **options),
    }


KINDS = pytest.mark.parametrize("kind", ["unary", "requests"])


@KINDS
def test_ends_well(kind: str) -> None:
    """A future has its response, code and both metadata, calls its callbacks once, and leaves nothing counted."""
    done: list[Any] = []
    with servers(1) as (server,), mesh(server) as channel:
        future = kinds(channel)[kind](timeout=WAIT)
        future.add_done_callback(done.append)
        assert future.result(WAIT) == {"unary": b"x", "requests": b"xy"}[kind]
        assert (future.code(), future.details()) == (grpc.StatusCode.OK, "")
        assert dict(future.initial_metadata()) == {echo.SERVER_NAME: "server-1"}
        assert future.trailing_metadata() == ()
        assert future.exception() is None
        assert future.traceback() is None
        assert (future.done(), future.running(), future.is_active(), future.cancelled()) == (True, False, False, False)
        assert not future.add_callback(lambda: None)
        assert not future.cancel()
        assert 0 < future.time_remaining() <= WAIT
        until(lambda: done == [future])
        assert [attempt.code for attempt in future.mesh.attempts] == ["OK"]
        assert isinstance(future, grpc.RpcError)
        assert isinstance(future, grpc.Call)
        assert isinstance(future, grpc.Future)
        assert idle(channel)


@KINDS
def test_retried_elsewhere(kind: str) -> None:
    """A retryable failure is retried on another host, and the caller sees only the answer."""
    with servers(2) as (first, second), mesh(first, second) as channel:
        first.fault(code="UNAVAILABLE")
        for _ in range(4):
            future = kinds(channel)[kind](wait_for_ready=True, timeout=WAIT)
            assert future.result(WAIT)
            assert dict(future.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
        assert sum(second.calls.values()) == 4
        assert idle(channel)


@KINDS
def test_fails_as_itself(kind: str) -> None:
    """A failed future raises itself, with the server's code, metadata and ``.mesh``."""
    with servers(1) as (server,), mesh(server) as channel:
        server.fault(code="NOT_FOUND", details="nobody", trailing_metadata=(("why", "because"),))
        future = kinds(channel)[kind](timeout=WAIT)
        with pytest.raises(grpc.RpcError) as caught:
            future.result(WAIT)
        assert caught.value is future
        assert future.exception(WAIT) is future
        assert future.traceback(WAIT) is not None
        assert (future.code(), future.details()) == (grpc.StatusCode.NOT_FOUND, "nobody")
        assert dict(future.trailing_metadata()) == {"why": "because"}
        assert "nobody" in future.debug_error_string()
        assert str(future) == "NOT_FOUND: nobody"

        server.fault(code="UNAVAILABLE", details="gone")
        future = kinds(channel)[kind](timeout=WAIT)
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        assert future.details() == "gone"
        assert str(future).startswith("UNAVAILABLE after 3 attempts on 1 endpoint (")
        assert len(future.mesh.attempts) == 3


@KINDS
def test_cancelled(kind: str) -> None:
    """cancel() ends the call and the server's handler at once; a second one returns False."""
    done = threading.Event()
    with servers(1) as (server,), mesh(server) as channel:
        server.fault(hang=True)
        future = kinds(channel)[kind]()
        future.add_done_callback(lambda _: done.set())
        server.wait_until(lambda server: server.in_flight == 1)
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(0.01)
        assert future.cancel()
        assert not future.cancel()
        assert (future.cancelled(), future.done()) == (True, True)
        assert (future.code(), future.details()) == (grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        assert (future.initial_metadata(), future.trailing_metadata()) == ((), ())
        for ask in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureCancelledError):
                ask()
        assert done.wait(WAIT)
        server.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


@KINDS
def test_callbacks_of_a_cancelled_call_do_not_run_inside_cancel(kind: str) -> None:
    """The caller of cancel() may hold a lock that the callback takes, as with grpc."""
    lock, done = threading.Lock(), threading.Event()
    with servers(1) as (server,), mesh(server) as channel:
        server.fault(hang=True)
        future = kinds(channel)[kind]()

        def callback() -> None:
            with lock:
                done.set()

        assert future.add_callback(callback)
        with lock:
            future.cancel()
        assert done.wait(WAIT)


@KINDS
def test_deadline(kind: str) -> None:
    """The deadline ends a call inside an attempt and one that waits for a host."""
    with servers(1) as (server,), mesh(server) as channel:
        server.fault(hang=True)
        assert kinds(channel)[kind](timeout=0.1).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.stop()
        future = kinds(channel)[kind](timeout=0.1, wait_for_ready=True)
        assert future.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: idle(channel))


@KINDS
def test_waits_without_blocking(kind: str) -> None:
    """Without a host the future is pending; it starts when one comes up."""
    with servers(1) as (server,):
        server.stop()
        with mesh(server) as channel:
            future = kinds(channel)[kind](wait_for_ready=True, timeout=WAIT)
            assert future.running()
            assert future.mesh.attempts == ()
            server.start()
            assert future.result(WAIT)


@KINDS
@pytest.mark.parametrize("phase", ["waiting", "in flight", "backing off"])
def test_channel_closed(kind: str, phase: str) -> None:
    """close() ends calls in any phase as CANCELLED, without cancelled(), and runs their callbacks once."""
    done: list[Any] = []
    retry = meshlib.RetryPolicy(initial_backoff=60, max_backoff=60)
    with servers(1) as (server,), mesh(server, retry=retry) as channel:
        if phase == "waiting":
            server.stop()
        elif phase == "in flight":
            server.fault(hang=True)
        else:
            server.fault(code="UNAVAILABLE")
        future = kinds(channel)[kind](wait_for_ready=True)
        future.add_done_callback(done.append)
        if phase == "in flight":
            server.wait_until(lambda server: server.in_flight == 1)
        elif phase == "backing off":
            until(partial(reported, future))
        channel.close()
        assert future.code() is grpc.StatusCode.CANCELLED
        assert "Channel closed!" in future.details()
        assert not future.cancelled()
        with pytest.raises(grpc.RpcError):
            future.result(WAIT)
        until(lambda: done == [future])
        with pytest.raises(ValueError, match=r"Cannot invoke RPC: Channel closed!"):
            kinds(channel)[kind]()


@KINDS
@pytest.mark.parametrize("phase", ["waiting", "in flight", "backing off"])
def test_abandoned(kind: str, phase: str) -> None:
    """A future without references is cancelled in any phase; its nullary callbacks still run."""
    done = threading.Event()
    retry = meshlib.RetryPolicy(initial_backoff=60, max_backoff=60)
    with servers(1) as (server,), mesh(server, retry=retry) as channel:
        if phase == "waiting":
            server.stop()
        elif phase == "in flight":
            server.fault(hang=True)
        else:
            server.fault(code="UNAVAILABLE")
        future = kinds(channel)[kind](wait_for_ready=True)
        future.add_callback(done.set)
        if phase == "in flight":
            server.wait_until(lambda server: server.in_flight == 1)
        elif phase == "backing off":
            until(partial(reported, future))
        del future
        gc.collect()
        assert done.wait(WAIT)
        server.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


@KINDS
def test_a_call_outlives_its_channel_object(kind: str) -> None:
    """A channel without references is not closed while a call is in flight."""
    with servers(1) as (server,):
        server.fault(delay=0.1)
        future = kinds(meshlib.channel(f"static:///{server.address}"))[kind](timeout=WAIT)
        gc.collect()
        assert future.result(WAIT)


@KINDS
def test_hedged(kind: str) -> None:
    """Of two concurrent attempts the first good answer wins; the other is cancelled, at its server too."""
    hedging = meshlib.HedgingPolicy(max_attempts=2, hedging_delay=0.02)
    with servers(2) as (first, second), mesh(first, second, retry=hedging) as channel:
        answered(channel, first, second)
        first.fault(hang=True)
        for _ in range(4):
            future = kinds(channel)[kind](timeout=WAIT, wait_for_ready=True)
            assert future.result(WAIT)
            assert dict(future.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
        first.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


def test_hedged_blocking() -> None:
    """A blocking call with hedging has two concurrent attempts as well, and with_call gives the winner's metadata."""
    hedging = meshlib.HedgingPolicy(max_attempts=2, hedging_delay=0.02)
    with servers(2) as (first, second), mesh(first, second, retry=hedging) as channel:
        call = channel.unary_unary(echo.UNARY)
        answered(channel, first, second)
        first.fault(hang=True)
        for _ in range(4):
            assert call(b"x", timeout=WAIT) == b"x"
            response, ended = call.with_call(b"y", timeout=WAIT)
            assert response == b"y"
            assert dict(ended.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
        second.fault(code="ABORTED", details="no")
        first.fault(code="ABORTED", details="no")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"x", timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.ABORTED


def test_blocking_with_a_stream_of_requests() -> None:
    """__call__ and with_call answer, retry, and raise grpc's own error after one attempt."""
    with servers(2) as (first, second), mesh(first, second) as channel:
        call = channel.stream_unary(echo.CLIENT_STREAM)
        assert call(iter([b"a", b"b"]), timeout=WAIT) == b"ab"
        first.fault(code="UNAVAILABLE", times=1)
        second.fault(code="UNAVAILABLE", times=1)
        response, ended = call.with_call(iter([b"a", b"b", b"c"]), timeout=WAIT)
        assert response == b"abc"
        assert len(ended.mesh.attempts) > 1
        assert dict(ended.initial_metadata()).keys() == {echo.SERVER_NAME}
        first.heal()
        second.heal()
        for server in (first, second):
            server.fault(code="NOT_FOUND", details="nobody")
        with pytest.raises(grpc.RpcError) as caught:
            call(iter([b"a"]), timeout=WAIT)
        assert type(caught.value).__name__ == "_InactiveRpcError"
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "nobody")
        assert len(caught.value.mesh.attempts) == 1


@pytest.mark.shares_process_state  # grpc itself never frees a call whose metadata it cannot convert
@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ((("key",),), ValueError),
        ((("a", "b", "c"),), ValueError),
        ((("key", 1),), TypeError),
        ((("key-bin", "text"),), TypeError),
        (42, TypeError),
    ],
    ids=str,
)
def test_metadata_that_cannot_be_sent(metadata: Any, error: type[Exception]) -> None:
    """The invocation raises grpc's exceptions with grpc's texts, even without a ready host."""
    with servers(1) as (server,):
        server.stop()
        with mesh(server) as channel, grpc.insecure_channel(server.address) as bare:
            for call in kinds(channel).values():
                with pytest.raises(error) as expected:
                    bare.unary_unary(echo.UNARY).future(b"x", metadata=metadata)
                with pytest.raises(error) as caught:
                    call(metadata=metadata, wait_for_ready=True)
                assert str(caught.value) == str(expected.value)


def test_metadata_that_core_refuses() -> None:
    """Illegal metadata ends a call INTERNAL at once, even without a ready host; every legal octet passes."""
    with servers(1) as (server,):
        server.stop()
        with mesh(server) as channel, grpc.insecure_channel(server.address) as bare:
            for octet in range(256):
                for metadata in (((bytes([97, octet]), "v"),), (("k", bytes([octet])),)):
                    expected = bare.unary_unary(echo.UNARY).future(b"x", metadata=metadata).code()
                    future = channel.unary_unary(echo.UNARY).future(b"x", metadata=metadata, wait_for_ready=True)
                    if expected is grpc.StatusCode.INTERNAL:
                        assert (future.code(), future.details()) == (expected, "Invalid metadata"), metadata
                    else:
                        assert future.running(), metadata


def test_bytes_are_needed_where_nothing_serialises() -> None:
    """A request that is not bytes is rejected at the invocation, with grpc's text."""
    with servers(1) as (server,), mesh(server) as channel, grpc.insecure_channel(server.address) as bare:
        for request in ("text", 5, bytearray(b"x")):
            with pytest.raises(TypeError) as expected:
                bare.unary_unary(echo.UNARY).future(request)  # type: ignore[arg-type]
            with pytest.raises(TypeError) as caught:
                channel.unary_unary(echo.UNARY).future(request)
            assert str(caught.value) == str(expected.value)


def test_a_callback_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The other callbacks run, the error is logged, the next call works."""
    done = threading.Event()
    with servers(1) as (server,), mesh(server) as channel:
        future = channel.unary_unary(echo.UNARY).future(b"x", metadata=((echo.DELAY_MS, "50"),))
        future.add_callback(lambda: 1 / 0)
        future.add_callback(done.set)
        assert done.wait(WAIT)
        flush_logs()
        assert any("a callback raised" in record.message for record in caplog.records)
        assert channel.unary_unary(echo.UNARY).future(b"y").result(WAIT) == b"y"


def test_attempt_interceptors_see_each_attempt() -> None:
    """They run for futures too, once per attempt, and never on the control thread."""
    seen: list[str] = []

    class Interceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.append(threading.current_thread().name)
            return continuation(details, request)

    with servers(2) as (first, second), mesh(first, second, attempt_interceptors=[Interceptor()]) as channel:
        first.fault(code="UNAVAILABLE", times=1)
        second.fault(code="UNAVAILABLE", times=1)
        future = channel.unary_unary(echo.UNARY).future(b"x", timeout=WAIT)
        assert future.result(WAIT) == b"x"
        assert len(seen) == len(future.mesh.attempts) > 1
        assert "meshlib-control" not in seen
