"""`grpc.intercept_channel` over a channel: interceptors written for grpc work unchanged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from tests.e2e.dropin.scenarios import LONG
from tests.e2e.dropin.service import CODE, COPIES, METHODS, SCRIPT, Script
from tests.e2e.dropin.subjects import Subject

from meshlib.testing import Server

WAIT = 10.0  # seconds after which a wait fails
MARK = "x-interceptor"

FORMS = [
    ("unary_unary", "__call__"),
    ("unary_unary", "with_call"),
    ("unary_unary", "future"),
    ("unary_stream", "__call__"),
    ("stream_unary", "__call__"),
    ("stream_unary", "with_call"),
    ("stream_unary", "future"),
    ("stream_stream", "__call__"),
]
ARITIES = list(METHODS)


class Details(NamedTuple):
    """The call details that an interceptor passes on."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Details(Details, grpc.ClientCallDetails):  # type: ignore[misc]
    pass


class Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """All four kinds; `step` is its action on a call."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.step(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.step(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self.step(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self.step(continuation, client_call_details, request_iterator)


def with_metadata(details: Any, *more: tuple[str, str]) -> _Details:
    """The details of a call with metadata added."""
    return _Details(
        details.method,
        details.timeout,
        (*(details.metadata or ()), *more),
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )


def marking(mark: str) -> Interceptor:
    """Adds metadata, as most interceptors do."""
    return Interceptor(lambda go_on, details, request: go_on(with_metadata(details, (MARK, mark)), request))


def invoke(channel: grpc.Channel, arity: str, form: str = "__call__", script: Script = Script.ECHO) -> list[bytes]:
    """Call in any form; returns the responses."""
    requests: Any = iter([b"one"] * COPIES) if arity.startswith("stream") else b"one"
    call = getattr(getattr(channel, arity)(METHODS[arity]), form)
    answer = call(requests, timeout=LONG, metadata=((SCRIPT, script.name),))
    if form == "future":
        return [answer.result()]
    if form == "with_call":
        assert answer[1].code() is grpc.StatusCode.OK
        return [answer[0]]
    return [answer] if arity.endswith("unary") else list(answer)


EXPECTED = {
    "unary_unary": [b"one"],
    "unary_stream": [b"one"] * COPIES,
    "stream_unary": [b"one" * COPIES],
    "stream_stream": [b"one"] * COPIES,
}


@pytest.mark.parametrize(("arity", "form"), FORMS)
def test_interceptors_are_nested(channel: grpc.Channel, server: Server, arity: str, form: str) -> None:
    """The first interceptor is the outermost, and their additions reach the server in that order."""
    intercepted = grpc.intercept_channel(channel, marking("outer"), marking("inner"))
    assert invoke(intercepted, arity, form) == EXPECTED[arity]
    assert [value for key, value in server.received[0].metadata if key == MARK] == ["outer", "inner"]


@pytest.mark.parametrize("arity", ARITIES)
def test_details(channel: grpc.Channel, arity: str) -> None:
    """An interceptor gets the caller's arguments."""
    seen: list[Any] = []

    def look(go_on: Any, details: Any, request: Any) -> Any:
        seen.append(details)
        return go_on(details, request)

    assert invoke(grpc.intercept_channel(channel, Interceptor(look)), arity) == EXPECTED[arity]
    (details,) = seen
    assert (details.method, details.timeout) == (METHODS[arity], LONG)
    assert tuple(details.metadata) == ((SCRIPT, Script.ECHO.name),)
    assert (details.credentials, details.wait_for_ready, details.compression) == (None, None, None)


@pytest.mark.parametrize("arity", ARITIES)
def test_error_passes_through(channel: grpc.Channel, arity: str) -> None:
    """An interceptor may read the code of a failed call; its caller still gets the error."""
    codes: list[grpc.StatusCode] = []

    def look(go_on: Any, details: Any, request: Any) -> Any:
        call = go_on(details, request)
        codes.append(call.code())
        return call

    with pytest.raises(grpc.RpcError) as raised:
        invoke(grpc.intercept_channel(channel, Interceptor(look)), arity, script=Script.FAIL)
    assert raised.value.code() is CODE  # type: ignore[attr-defined]
    assert codes == [CODE]


@pytest.mark.parametrize("form", ["__call__", "with_call", "future"])
def test_interceptor_that_tries_again(channel: grpc.Channel, server: Server, form: str) -> None:
    """An interceptor may continue twice, and answer with the second call."""

    def again(go_on: Any, details: Any, request: Any) -> Any:
        assert go_on(details, request).exception(timeout=WAIT).code() is CODE
        other = [(key, value) for key, value in details.metadata if key != SCRIPT]
        return go_on(with_metadata(details)._replace(metadata=other), request)

    intercepted = grpc.intercept_channel(channel, Interceptor(again))
    assert invoke(intercepted, "unary_unary", form, Script.FAIL) == [b"one"]
    assert server.calls[METHODS["unary_unary"]] == 2


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
def test_interceptor_that_wraps_a_stream(channel: grpc.Channel, arity: str) -> None:
    """An interceptor may return its own iterator."""

    def shout(go_on: Any, details: Any, request: Any) -> Any:
        return (message.upper() for message in go_on(details, request))

    assert invoke(grpc.intercept_channel(channel, Interceptor(shout)), arity) == [b"ONE"] * COPIES


@pytest.mark.parametrize(("arity", "form"), FORMS)
def test_interceptor_that_raises(channel: grpc.Channel, server: Server, arity: str, form: str) -> None:
    """An interceptor's exception reaches the caller; the call is not made."""

    def refuse(go_on: Any, details: Any, request: Any) -> Any:
        raise LookupError("refused by the interceptor")

    with pytest.raises(LookupError, match="refused"):
        invoke(grpc.intercept_channel(channel, Interceptor(refuse)), arity, form)
    assert server.calls.total() == 0


def test_interceptor_of_one_kind(channel: grpc.Channel, server: Server) -> None:
    """An interceptor of one kind of call does not affect the others."""

    class OnlyUnary(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return continuation(with_metadata(client_call_details, (MARK, "unary")), request)

    intercepted = grpc.intercept_channel(channel, OnlyUnary())
    for arity in ("unary_unary", "unary_stream"):
        assert invoke(intercepted, arity) == EXPECTED[arity]
    assert [(MARK, "unary") in received.metadata for received in server.received] == [True, False]


def test_intercepted_channel(subject: Subject, server: Server) -> None:
    """intercept_channel returns a channel whose close closes the one inside."""
    inner = subject.insecure_channel(server.address)
    with grpc.intercept_channel(inner, marking("one")) as channel:
        grpc.channel_ready_future(channel).result(timeout=WAIT)
        assert invoke(channel, "unary_unary") == [b"one"]
    with pytest.raises(ValueError, match="Cannot invoke RPC"):
        invoke(inner, "unary_unary")
