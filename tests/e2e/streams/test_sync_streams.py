"""Calls of the sync shell with a stream of responses."""

import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from tests.e2e.sync_mesh import WAIT, answered, idle, mesh, reported
from tests.waiting import until

import meshlib
from meshlib.testing import echo, servers


def kinds(channel: grpc.Channel) -> dict[str, Callable[..., Any]]:
    """Start functions for calls answered ``x x x``, with one request and with a stream of them."""
    one, many = channel.unary_stream(echo.SERVER_STREAM), channel.stream_stream(echo.BIDI_STREAM)
    return {
        "one": lambda **options: one(b"x", **options),
        "many": lambda **options: many(iter([b"x", b"x", b"x"]), **options),
    }


KINDS = pytest.mark.parametrize("kind", ["one", "many"])


@KINDS
def test_ends_well(kind: str) -> None:
    """A stream gives its messages, then StopIteration on every next(), and is a finished call and future."""
    done: list[Any] = []
    with servers(1) as (server,), mesh(server) as channel:
        stream = kinds(channel)[kind](timeout=WAIT)
        stream.add_done_callback(done.append)
        assert stream.next() == b"x"
        assert stream.is_active()
        assert list(stream) == [b"x", b"x"]
        assert list(stream) == []
        assert (stream.code(), stream.details()) == (grpc.StatusCode.OK, "")
        assert dict(stream.initial_metadata()) == {echo.SERVER_NAME: "server-1"}
        assert stream.trailing_metadata() == ()
        assert stream.result(WAIT) is None
        assert stream.exception() is None
        assert (stream.done(), stream.running(), stream.is_active(), stream.cancelled()) == (True, False, False, False)
        assert not stream.add_callback(lambda: None)
        assert not stream.cancel()
        until(lambda: done == [stream])
        assert idle(channel)


@KINDS
def test_retried_before_the_first_message(kind: str) -> None:
    """A failure before the first delivery is retried, with or without a reader."""
    with servers(2) as (first, second), mesh(first, second) as channel:
        first.fault(code="UNAVAILABLE")
        for calls, reads in enumerate((True, False) * 3):
            stream = kinds(channel)[kind](timeout=WAIT, wait_for_ready=True)
            if not reads:
                second.wait_until(lambda server, calls=calls: server.calls.total() > calls)  # type: ignore[misc]
            assert list(stream) == [b"x", b"x", b"x"]
            assert dict(stream.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
        until(lambda: idle(channel))


@KINDS
def test_not_retried_after_the_first_message(kind: str) -> None:
    """After a message reached the application, the caller gets the failure, with the reason."""
    with servers(2) as (first, second), mesh(first, second) as channel:
        for server in (first, second):
            server.fault(code="UNAVAILABLE", details="half way", after=2)
        stream = kinds(channel)[kind](timeout=WAIT)
        assert [next(stream), next(stream)] == [b"x", b"x"]
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value is stream
        assert (stream.code(), stream.details()) == (grpc.StatusCode.UNAVAILABLE, "half way")
        assert len(stream.mesh.attempts) == 1
        assert "a message" in stream.mesh.why
        assert stream.exception() is stream
        until(lambda: idle(channel))


@KINDS
def test_headers_commit(kind: str) -> None:
    """An attempt whose initial metadata was delivered is the last; that of an earlier failed one is not delivered."""
    with servers(2) as (first, second), mesh(first, second) as channel:
        for server in (first, second):
            server.fault(code="UNAVAILABLE", initial_metadata=True, delay=0.1, after=0)
        stream = kinds(channel)[kind](timeout=WAIT, wait_for_ready=True)
        assert len(stream.initial_metadata()) == 1
        assert stream.code() is grpc.StatusCode.UNAVAILABLE
        assert len(stream.mesh.attempts) == 1
        assert "headers" in stream.mesh.why
        first.heal()
        second.heal()
        first.fault(code="UNAVAILABLE")
        for _ in range(4):
            stream = kinds(channel)[kind](timeout=WAIT, wait_for_ready=True)
            threading.Thread(target=lambda stream=stream: list(stream)).start()  # type: ignore[misc]
            assert dict(stream.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
            assert stream.code() is grpc.StatusCode.OK


@KINDS
def test_cancelled(kind: str) -> None:
    """cancel() ends a stream between messages and one with a blocked reader; the reader gets the call itself."""
    with servers(1) as (server,), mesh(server) as channel:
        server.fault(hang=True, after=1)
        stream = kinds(channel)[kind]()
        assert next(stream) == b"x"
        threading.Timer(0.05, stream.cancel).start()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value is stream
        assert (stream.code(), stream.details()) == (grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        assert stream.cancelled()
        assert dict(stream.initial_metadata()) == {echo.SERVER_NAME: "server-1"}
        server.wait_until(lambda server: server.in_flight == 0)

        server.heal()
        server.fault(hang=True)
        stream = kinds(channel)[kind]()
        threading.Timer(0.05, stream.cancel).start()
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() is grpc.StatusCode.CANCELLED
        server.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


@KINDS
def test_deadline(kind: str) -> None:
    """The deadline ends a stream before and after its first message, and while it waits for a host."""
    with servers(1) as (server,), mesh(server) as channel:
        for after in (0, 1):
            server.heal()
            server.fault(hang=True, after=after)
            stream = kinds(channel)[kind](timeout=0.1)
            with pytest.raises(grpc.RpcError):
                list(stream)
            assert stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.stop()
        stream = kinds(channel)[kind](timeout=0.1, wait_for_ready=True)
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: idle(channel))


@KINDS
def test_waits_without_blocking(kind: str) -> None:
    """Without a host the stream is pending; its reader waits for the host and then for the message."""
    with servers(1) as (server,):
        server.stop()
        with mesh(server) as channel:
            stream = kinds(channel)[kind](wait_for_ready=True, timeout=WAIT)
            assert stream.running()
            threading.Timer(0.05, server.start).start()
            assert list(stream) == [b"x", b"x", b"x"]


@KINDS
@pytest.mark.parametrize("phase", ["waiting", "in flight", "streaming", "backing off"])
def test_channel_closed(kind: str, phase: str) -> None:
    """close() ends a stream in any phase as CANCELLED, and a blocked reader gets that."""
    done: list[Any] = []
    retry = meshlib.RetryPolicy(initial_backoff=60, max_backoff=60)
    with servers(1) as (server,), mesh(server, retry=retry) as channel:
        if phase == "waiting":
            server.stop()
        elif phase == "backing off":
            server.fault(code="UNAVAILABLE")
        else:
            server.fault(hang=True, after=int(phase == "streaming"))
        stream = kinds(channel)[kind](wait_for_ready=True)
        stream.add_done_callback(done.append)
        if phase == "in flight":
            server.wait_until(lambda server: server.in_flight == 1)
        elif phase == "streaming":
            assert next(stream) == b"x"
        elif phase == "backing off":
            until(partial(reported, stream))
        threading.Timer(0.02, channel.close).start()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value is stream
        assert stream.code() is grpc.StatusCode.CANCELLED
        assert "Channel closed!" in stream.details()
        assert not stream.cancelled()
        until(lambda: done == [stream])
        with pytest.raises(ValueError, match=r"Cannot invoke RPC: Channel closed!"):
            kinds(channel)[kind]()


@KINDS
@pytest.mark.parametrize("phase", ["waiting", "in flight", "streaming", "backing off"])
def test_abandoned(kind: str, phase: str) -> None:
    """A stream without references is cancelled in any phase, as `for message in stub.Stream(): break` leaves it."""
    done = threading.Event()
    retry = meshlib.RetryPolicy(initial_backoff=60, max_backoff=60)
    with servers(1) as (server,), mesh(server, retry=retry) as channel:
        if phase == "waiting":
            server.stop()
        elif phase == "backing off":
            server.fault(code="UNAVAILABLE")
        else:
            server.fault(hang=True, after=int(phase == "streaming"))
        stream = kinds(channel)[kind](wait_for_ready=True)
        stream.add_callback(done.set)
        if phase == "in flight":
            server.wait_until(lambda server: server.in_flight == 1)
        elif phase == "streaming":
            assert next(stream) == b"x"
        elif phase == "backing off":
            until(partial(reported, stream))
        del stream
        gc.collect()
        assert done.wait(WAIT)
        server.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


@KINDS
def test_per_attempt_timeout(kind: str) -> None:
    """An attempt without an answer within the limit is cancelled, whether a message or metadata is awaited, and another
    host answers."""
    retry = meshlib.RetryPolicy(per_attempt_timeout=0.5)
    with servers(2) as (first, second), mesh(first, second, retry=retry) as channel:
        first.fault(hang=True)
        for reads in (True, False) * 2:
            stream = kinds(channel)[kind](timeout=WAIT, wait_for_ready=True)
            if not reads:
                assert dict(stream.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
            assert list(stream) == [b"x", b"x", b"x"]
            assert dict(stream.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
        assert first.calls.total() > 0
        first.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


@KINDS
def test_per_attempt_timeout_spares_a_slow_stream(kind: str) -> None:
    """The limit ends with the first message."""
    retry = meshlib.RetryPolicy(per_attempt_timeout=1.0)
    with servers(1) as (server,), mesh(server, retry=retry) as channel:
        server.fault(delay=1.2, after=1)
        stream = kinds(channel)[kind](timeout=WAIT)
        assert list(stream) == [b"x", b"x", b"x"]
        assert len(stream.mesh.attempts) == 1


@KINDS
def test_hedged(kind: str) -> None:
    """Of two concurrent streams the one with the first message wins; the other is cancelled, at its server too."""
    hedging = meshlib.HedgingPolicy(max_attempts=2, hedging_delay=0.02)
    with servers(2) as (first, second), mesh(first, second, retry=hedging) as channel:
        answered(channel, first, second)
        first.fault(hang=True)
        for _ in range(4):
            stream = kinds(channel)[kind](timeout=WAIT, wait_for_ready=True)
            assert list(stream) == [b"x", b"x", b"x"]
            assert dict(stream.initial_metadata()) == {echo.SERVER_NAME: "server-2"}
            first.wait_until(lambda server: server.in_flight == 0)
        second.fault(code="ABORTED", details="no")
        first.heal()
        first.fault(code="ABORTED", details="no")
        stream = kinds(channel)[kind](timeout=WAIT)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value is stream
        assert stream.code() is grpc.StatusCode.ABORTED
        until(lambda: idle(channel))


def test_empty_stream() -> None:
    """A stream without a message is OK at once."""
    with servers(1) as (server,), mesh(server) as channel:
        stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", metadata=((echo.COUNT, "0"),), timeout=WAIT)
        assert list(stream) == []
        assert stream.code() is grpc.StatusCode.OK
        until(lambda: idle(channel))


def test_deserializer_raises() -> None:
    """The call ends INTERNAL with grpc's text, and its in-flight count drops."""

    def fails(_: bytes) -> Any:
        raise RuntimeError("this codec always fails")

    with servers(1) as (server,), mesh(server) as channel:
        stream = channel.unary_stream(echo.SERVER_STREAM, response_deserializer=fails)(b"x", timeout=WAIT)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value is stream
        assert (stream.code(), stream.details()) == (grpc.StatusCode.INTERNAL, "Exception deserializing response!")
        assert stream.debug_error_string() == ""
        until(lambda: idle(channel))


def test_context_variables_reach_every_attempt() -> None:
    """Interceptors and request iterators of later attempts see the caller's context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    class Interceptor(grpc.StreamStreamClientInterceptor):  # type: ignore[type-arg]
        def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            seen.append(variable.get())
            return continuation(details, requests)

    def requests() -> Iterator[bytes]:
        seen.append(variable.get())
        yield b"x"

    with servers(2) as (first, second), mesh(first, second, attempt_interceptors=[Interceptor()]) as channel:
        for server in (first, second):
            server.fault(code="UNAVAILABLE", times=1)
        variable.set("the caller's")
        assert list(channel.stream_stream(echo.BIDI_STREAM)(requests(), timeout=WAIT)) == [b"x"]
        assert len(seen) > 2
        assert set(seen) == {"the caller's"}


def test_single_threaded_option_is_accepted() -> None:
    """Streams of a channel with grpc's single-threaded option are counted, retried and cancelled like others."""
    options = [("SingleThreadedUnaryStream", 1)]
    with servers(2) as (first, second), mesh(first, second, options=options) as channel:
        first.fault(code="UNAVAILABLE")
        for _ in range(4):
            stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=WAIT, wait_for_ready=True)
            assert list(stream) == [b"x", b"x", b"x"]
        del stream
        until(lambda: idle(channel))


def test_the_answer_to_what_is_not_kept_for_a_replay_is_not_lost() -> None:
    """Requests larger than the buffer commit the call before the first message; message and status come together."""
    large = bytes(100_000)
    with servers(1) as some, mesh(*some) as channel:
        stub = channel.stream_stream(echo.BIDI_STREAM)
        for _ in range(60):
            assert list(stub(iter([large]), timeout=WAIT)) == [large]
