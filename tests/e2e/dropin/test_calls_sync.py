"""The call object of a `grpc` channel: its answers before, at and after the end of its call."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc
import pytest
from tests.e2e.dropin.observation import pairs
from tests.e2e.dropin.scenarios import LONG
from tests.e2e.dropin.service import CODE, COPIES, DETAILS, INITIAL, METHODS, SCRIPT, TRAILING, Script, has_one

from meshlib.testing import Server

WAIT = 10.0  # seconds after which a wait fails
AT_ONCE = 0.05

Start = Callable[..., Any]


@pytest.fixture(params=["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def start(request: pytest.FixtureRequest, channel: grpc.Channel) -> Start:
    """Starts a call of each kind: `start(Script.HOLD, timeout=1.0)` gives the call object."""

    def start(script: Script = Script.ECHO, *, timeout: float | None = LONG) -> Any:
        arity = request.param
        multicallable = getattr(channel, arity)(METHODS[arity])
        requests = iter([b"one"]) if arity.startswith("stream") else b"one"
        invoke = multicallable if arity.endswith("stream") else multicallable.future
        return invoke(requests, timeout=timeout, metadata=((SCRIPT, script.name),))

    return start


def test_is_everything_grpc_says(start: Start) -> None:
    """A call object is a Call, a Future, an RpcContext and, to be raised, an RpcError."""
    call = start()
    assert isinstance(call, grpc.Call)
    assert isinstance(call, grpc.Future)
    assert isinstance(call, grpc.RpcContext)
    assert isinstance(call, grpc.RpcError)


def test_before_the_end(start: Start, server: Server) -> None:
    """While the server holds a call it runs, and waits for it raise when their own timeout ends."""
    call = start(Script.HOLD)
    server.wait_until(has_one, WAIT)
    assert (call.running(), call.done(), call.cancelled(), call.is_active()) == (True, False, False, True)
    for wait in (call.result, call.exception, call.traceback):
        with pytest.raises(grpc.FutureTimeoutError):
            wait(timeout=AT_ONCE)
    assert call.running()
    call.cancel()


def test_time_remaining(start: Start) -> None:
    """A deadline is counted down, to zero and no further; without one the remaining time is None."""
    call = start(Script.HOLD)
    assert LONG - WAIT < call.time_remaining() <= LONG
    call.cancel()
    assert 0 < call.time_remaining() <= LONG

    call = start(Script.HOLD, timeout=AT_ONCE)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert call.time_remaining() == 0

    call = start(Script.HOLD, timeout=None)
    assert call.time_remaining() is None
    call.cancel()


def test_cancel(start: Start, server: Server) -> None:
    """The first cancel() ends the call, a second returns False; the details name the canceller."""
    call = start(Script.HOLD)
    server.wait_until(has_one, WAIT)
    assert call.cancel() is True
    assert call.cancel() is False
    assert (call.running(), call.done(), call.cancelled(), call.is_active()) == (False, True, True, False)
    for ask in (call.result, call.exception, call.traceback):
        with pytest.raises(grpc.FutureCancelledError):
            ask()
    assert call.code() is grpc.StatusCode.CANCELLED
    assert call.details() == "Locally cancelled by application!"
    assert pairs(call.trailing_metadata()) == ()


def test_cancel_after_the_end(start: Start) -> None:
    """A call that has ended cannot be cancelled, and stays as it ended."""
    call = start(Script.FAIL)
    assert call.code() is CODE
    assert call.cancel() is False
    assert not call.cancelled()


def test_error(start: Start) -> None:
    """The exception of a failed call is the call object itself, wherever it is requested."""
    call = start(Script.FAIL)
    assert call.exception(timeout=WAIT) is call
    assert isinstance(call.traceback(timeout=WAIT), TracebackType)
    with pytest.raises(grpc.RpcError) as raised:
        call.result(timeout=WAIT)
    assert raised.value is call
    assert (call.code(), call.details()) == (CODE, DETAILS)
    assert isinstance(call.debug_error_string(), str)
    assert CODE.name in str(call)
    assert "détails" in str(call)
    assert CODE.name in repr(call)
    assert pairs(call.trailing_metadata()) == TRAILING


def test_what_waits_for_the_end(start: Start, server: Server) -> None:
    """code(), details() and trailing_metadata() of a running call wait until it has ended, in any thread."""
    call = start(Script.HOLD)
    answers: list[Any] = []
    asking = [
        threading.Thread(target=lambda ask=ask: answers.append(ask()))
        for ask in (call.code, call.details, call.trailing_metadata)
    ]
    for thread in asking:
        thread.start()
    server.wait_until(has_one, WAIT)
    assert answers == []
    call.cancel()
    for thread in asking:
        thread.join(WAIT)
    assert len(answers) == 3


@pytest.mark.parametrize("arity", ["unary_stream", "stream_unary", "stream_stream"])
def test_headers_before_the_end(channel: grpc.Channel, arity: str) -> None:
    """initial_metadata() waits only for the headers (of a stream); its items have names as well as positions."""
    multicallable = getattr(channel, arity)(METHODS[arity])
    invoke = multicallable if arity.endswith("stream") else multicallable.future
    requests: Any = iter([b"one"]) if arity.startswith("stream") else b"one"
    call = invoke(requests, timeout=LONG, metadata=((SCRIPT, Script.HOLD_AFTER_FIRST.name),))
    metadata = call.initial_metadata()
    assert pairs(metadata) == INITIAL
    assert [(item.key, item.value) for item in metadata] == list(INITIAL)
    assert call.is_active()
    call.cancel()


def test_callbacks_in_order(start: Start, server: Server) -> None:
    """Callbacks run once, in the order they were added, even if one raises; done ones get the call."""
    call = start(Script.HOLD)
    server.wait_until(has_one, WAIT)
    ran: list[Any] = []
    all_ran = threading.Event()
    call.add_done_callback(ran.append)
    assert call.add_callback(lambda: ran.append("second")) is True
    call.add_done_callback(lambda _: 1 / 0)
    assert call.add_callback(lambda: (ran.append("last"), all_ran.set())) is True
    call.cancel()
    assert all_ran.wait(WAIT)
    assert ran == [call, "second", "last"]


def test_callbacks_after_the_end(start: Start) -> None:
    """After the end a done callback runs at once, in the thread that adds it; an RpcContext's is refused."""
    call = start(Script.FAIL)
    ended = threading.Event()
    if call.add_callback(ended.set):
        assert ended.wait(WAIT)
    ran: list[Any] = []
    call.add_done_callback(lambda future: ran.extend((future, threading.current_thread())))
    assert ran == [call, threading.current_thread()]
    assert call.add_callback(lambda: ran.append("never")) is False
    assert len(ran) == 2


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
def test_iteration(channel: grpc.Channel, arity: str) -> None:
    """A stream is its own iterator; after its end it stays exhausted, and its result is not a message."""
    requests: Any = iter([b"one"] * COPIES) if arity.startswith("stream") else b"one"
    call = getattr(channel, arity)(METHODS[arity])(requests, timeout=LONG)
    assert iter(call) is call
    assert [call.next(), next(call), *call] == [b"one"] * COPIES
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(call)
    assert call.result() is None
    assert call.exception() is None
    assert call.traceback() is None


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
def test_iteration_into_an_error(channel: grpc.Channel, arity: str) -> None:
    """Messages received before an error are delivered; then each next() raises the call itself."""
    requests: Any = iter([b"one"]) if arity.startswith("stream") else b"one"
    metadata = ((SCRIPT, Script.FAIL_AFTER_FIRST.name),)
    call = getattr(channel, arity)(METHODS[arity])(requests, timeout=LONG, metadata=metadata)
    assert next(call) == b"one"
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        assert raised.value is call


@pytest.mark.parametrize("arity", ["unary_unary", "stream_unary"])
def test_result(channel: grpc.Channel, arity: str) -> None:
    """result() may be called any number of times."""
    requests: Any = iter([b"one"]) if arity.startswith("stream") else b"one"
    call = getattr(channel, arity)(METHODS[arity]).future(requests, timeout=LONG)
    assert [call.result(timeout=WAIT), call.result()] == [b"one", b"one"]
    assert call.exception() is None
    assert call.traceback() is None
    assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize("arity", ["unary_unary", "stream_unary"])
@pytest.mark.parametrize("form", ["__call__", "with_call"])
def test_error_of_a_blocking_call(channel: grpc.Channel, arity: str, form: str) -> None:
    """The error that a blocking call raises is an ended call and future in itself."""
    requests: Any = iter([b"one"]) if arity.startswith("stream") else b"one"
    multicallable = getattr(channel, arity)(METHODS[arity])
    with pytest.raises(grpc.RpcError) as raised:
        getattr(multicallable, form)(requests, timeout=LONG, metadata=((SCRIPT, Script.FAIL.name),))
    error: Any = raised.value
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.Future)
    assert (error.code(), error.details()) == (CODE, DETAILS)
    assert (pairs(error.initial_metadata()), pairs(error.trailing_metadata())) == ((), TRAILING)
    assert isinstance(error.debug_error_string(), str)
    assert CODE.name in str(error)
    assert (error.running(), error.done(), error.cancelled(), error.cancel()) == (False, True, False, False)
    assert error.exception() is error
    assert isinstance(error.traceback(), TracebackType)
    with pytest.raises(grpc.RpcError) as again:
        error.result()
    assert again.value is error
    ran: list[Any] = []
    error.add_done_callback(ran.append)
    assert ran == [error]


@pytest.mark.parametrize("arity", ["unary_unary", "stream_unary"])
def test_call_of_a_blocking_call(channel: grpc.Channel, arity: str) -> None:
    """with_call() gives a call object that has ended."""
    requests: Any = iter([b"one"]) if arity.startswith("stream") else b"one"
    response, call = getattr(channel, arity)(METHODS[arity]).with_call(requests, timeout=LONG)
    assert response == b"one"
    assert isinstance(call, grpc.Call)
    assert isinstance(call, grpc.RpcContext)
    assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
    assert (pairs(call.initial_metadata()), pairs(call.trailing_metadata())) == (INITIAL, TRAILING)
    assert (call.is_active(), call.cancel(), call.add_callback(lambda: None)) == (False, False, False)
