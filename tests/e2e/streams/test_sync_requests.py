"""The requests of a stream: sent to each attempt from the first on, taken from the application once."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from tests.e2e.sync_mesh import WAIT, idle, mesh
from tests.waiting import until

import meshlib
from meshlib.testing import echo, servers

NUMBERS = [b"%d," % number for number in range(50)]


class Feed:
    """An iterator of requests controlled by the test."""

    def __init__(self) -> None:
        self.queue: queue.Queue[bytes | None] = queue.Queue()
        self.taken = 0
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.threads.add(threading.current_thread().name)
        request = self.queue.get(timeout=WAIT)
        if request is None:
            raise StopIteration
        self.taken += 1
        return request


def test_replayed_in_order_once() -> None:
    """Each attempt gets every request from the first on; each is taken from the application once."""
    feed = Feed()
    with servers(3) as some, mesh(*some) as channel:
        for server in some[:2]:
            server.fault(code="UNAVAILABLE", times=1)
        for number in NUMBERS:
            feed.queue.put(number)
        feed.queue.put(None)
        future = channel.stream_unary(echo.CLIENT_STREAM).future(feed, timeout=WAIT)
        assert future.result(WAIT) == b"".join(NUMBERS)
        assert feed.taken == len(NUMBERS)
        until(lambda: idle(channel))


def test_replayed_while_the_application_thinks() -> None:
    """A request awaited by the thread of a dead attempt goes to the next attempt, in order."""
    feed = Feed()
    with servers(2) as (first, second), mesh(first, second) as channel:
        stream = channel.stream_stream(echo.BIDI_STREAM)(feed, timeout=WAIT, wait_for_ready=True)
        until(lambda: first.in_flight + second.in_flight == 1)
        victim = first if first.in_flight else second
        victim.stop()
        until(lambda: len(stream.mesh.attempts) == 2)
        for number in (b"0", b"1", b"2"):
            feed.queue.put(number)
            assert next(stream) == number
        feed.queue.put(None)
        assert list(stream) == []
        assert feed.taken == 3
        until(lambda: idle(channel))


def test_buffer_overflow_makes_the_attempt_final() -> None:
    """Requests beyond the buffer cannot be replayed: the attempt that sends them is the last one."""
    retry = meshlib.RetryPolicy(buffer_size=100)
    with servers(2) as (first, second), mesh(first, second, retry=retry) as channel:
        for server in (first, second):
            server.fault(code="UNAVAILABLE", after=1)  # the handler has read all requests by then
        future = channel.stream_unary(echo.CLIENT_STREAM).future(iter([b"x" * 60] * 2), timeout=WAIT)
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        assert len(future.mesh.attempts) == 1
        assert "buffer" in future.mesh.why
        future = channel.stream_unary(echo.CLIENT_STREAM).future(iter([b"x" * 50] * 2), timeout=WAIT)
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        assert len(future.mesh.attempts) == 3
        until(lambda: idle(channel))


def test_overflow_while_nothing_is_in_flight() -> None:
    """A request that overflows the buffer after an attempt died still reaches the next one, which is the last."""
    feed = Feed()
    retry = meshlib.RetryPolicy(buffer_size=10)
    with servers(2) as (first, second), mesh(first, second, retry=retry) as channel:
        stream = channel.stream_stream(echo.BIDI_STREAM)(feed, timeout=WAIT, wait_for_ready=True)
        until(lambda: first.in_flight + second.in_flight == 1)
        (first if first.in_flight else second).stop()
        until(lambda: len(stream.mesh.attempts) == 2)
        feed.queue.put(b"x" * 20)
        assert next(stream) == b"x" * 20
        feed.queue.put(None)
        assert list(stream) == []


def test_long_streams_are_not_kept() -> None:
    """After the commit sent requests are freed, and all arrive."""
    with servers(1) as (server,), mesh(server) as channel:
        stream = channel.stream_stream(echo.BIDI_STREAM)(iter([b"x" * 10_000] * 100), timeout=WAIT)
        assert sum(len(message) for message in stream) == 1_000_000
        assert len(stream._engine._request._buffer._messages) <= 1
        until(lambda: idle(channel))


@pytest.mark.parametrize("hedges", [False, True])
def test_two_attempts_share_the_requests(hedges: bool) -> None:
    """Hedged attempts each get all requests, although one of them at a time takes them from the application."""
    feed = Feed()
    hedging = meshlib.HedgingPolicy(max_attempts=2, hedging_delay=0.01) if hedges else None
    with servers(2) as (first, second), mesh(first, second, retry=hedging) as channel:
        future = channel.stream_unary(echo.CLIENT_STREAM).future(feed, timeout=WAIT, wait_for_ready=True)
        for number in NUMBERS:
            feed.queue.put(number)
        if hedges:
            until(lambda: first.in_flight == second.in_flight == 1)
        feed.queue.put(None)
        assert future.result(WAIT) == b"".join(NUMBERS)
        assert feed.taken == len(NUMBERS)
        for server in (first, second):
            server.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


def _raises() -> Iterator[bytes]:
    yield b"a"
    raise RuntimeError("the request iterator fails")


def _fails(request: Any) -> bytes:
    raise RuntimeError("the serializer fails")


@pytest.mark.parametrize(
    ("requests", "serializer", "code", "details"),
    [
        (_raises, None, grpc.StatusCode.UNKNOWN, "Exception iterating requests!"),
        (lambda: [b"a"], None, grpc.StatusCode.UNKNOWN, "Exception iterating requests!"),
        (lambda: iter([b"a"]), _fails, grpc.StatusCode.INTERNAL, "Exception serializing request!"),
        (lambda: iter([b"a"]), lambda _: None, grpc.StatusCode.INTERNAL, "Exception serializing request!"),
        (lambda: iter([5]), None, grpc.StatusCode.INTERNAL, "Exception serializing request!"),
    ],
    ids=["raises", "no iterator", "serializer raises", "serializer gives None", "no bytes"],
)
@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_requests_that_fail(
    kind: str, requests: Callable[[], Any], serializer: Any, code: grpc.StatusCode, details: str
) -> None:
    """The call ends with grpc's text, is not retried, and its server's handler ends."""
    method = {"stream_unary": echo.CLIENT_STREAM, "stream_stream": echo.BIDI_STREAM}[kind]
    with servers(1) as (server,), mesh(server, retry=meshlib.RetryPolicy(retryable_status_codes={code})) as channel:
        multicallable = getattr(channel, kind)(method, request_serializer=serializer)
        call = (multicallable.future if kind == "stream_unary" else multicallable)(requests(), timeout=WAIT)
        assert (call.code(), call.details()) == (code, details)
        assert len(call.mesh.attempts) == 1
        server.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))


def test_an_iterator_that_blocks_holds_nothing_else() -> None:
    """A call whose iterator blocks still ends; only the thread inside the iterator waits for it."""
    feed = Feed()
    with servers(1) as (server,), mesh(server) as channel:
        stream = channel.stream_stream(echo.BIDI_STREAM)(feed, timeout=WAIT)
        feed.queue.put(b"x")
        assert next(stream) == b"x"
        assert stream.cancel()
        server.wait_until(lambda server: server.in_flight == 0)
        until(lambda: idle(channel))
        assert len(feed.threads) == 1
        feed.queue.put(b"late")
        until(lambda: feed.threads.isdisjoint(thread.name for thread in threading.enumerate()))


def test_a_server_that_answers_early_ends_the_call() -> None:
    """The response does not wait for the requests, nor does the sending thread."""
    feed = Feed()
    with servers(1) as (server,), mesh(server) as channel:
        server.fault(code="FAILED_PRECONDITION", details="enough")
        future = channel.stream_unary(echo.CLIENT_STREAM).future(feed, timeout=WAIT)
        assert future.code() is grpc.StatusCode.FAILED_PRECONDITION
        feed.queue.put(None)
        until(lambda: idle(channel))


def test_a_cancelled_attempt_is_not_half_closed() -> None:
    """grpc takes the end of the requests for the end of the stream, so they do not end before their attempt: a server
    must not take a part for the whole."""
    done: list[bool] = []

    class Interceptor(grpc.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
        def intercept_stream_unary(self, continuation: Any, details: Any, requests: Iterator[bytes]) -> Any:
            def watched() -> Iterator[bytes]:
                yield from requests
                done.append(call.done())

            call = continuation(details, watched())
            return call

    retry = meshlib.HedgingPolicy(max_attempts=2, hedging_delay=0.001)
    with servers(2) as some, mesh(*some, retry=retry, attempt_interceptors=[Interceptor()]) as channel:
        for server in some:
            server.fault(hang=True)
        for number in range(20):
            feed = Feed()
            future = channel.stream_unary(echo.CLIENT_STREAM).future(feed, wait_for_ready=True)
            feed.queue.put(b"x")
            until(lambda feed=feed: feed.taken == 1)  # type: ignore[misc]
            if number % 2:
                until(lambda future=future: len(future.mesh.attempts) == 2)  # type: ignore[misc]
            future.cancel()
            feed.queue.put(b"y")  # frees the thread that waits for a request
        until(lambda: idle(channel))
    assert done
    assert all(done)
