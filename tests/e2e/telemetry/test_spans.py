"""One span for each call, from its start to its end."""

import asyncio
import gc
import os

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from tests.e2e.load import Shell
from tests.e2e.telemetry.recording import (
    DEADLINE,
    METHODS,
    Metrics,
    Traces,
    all_kinds,
    both_shells,
    call,
    events,
    static,
    until,
)

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo


@pytest.mark.parametrize("host_addresses", [False, True])
@all_kinds
@both_shells
def test_one_client_span_for_each_call(shell: Shell, kind: str, host_addresses: bool, traces: Traces) -> None:
    """The span has the method's name and the conventions' attributes: the target asked for, on request the peer that
    answered."""
    policy = meshlib.TelemetryPolicy(host_addresses=host_addresses)
    with Server() as server:
        assert call(shell, kind, static(server), tracer_provider=traces.provider, telemetry=policy) == "OK"
        span = traces.one()
        method = METHODS[kind].removeprefix("/")
        assert (span.name, span.kind, span.status.status_code) == (method, SpanKind.CLIENT, StatusCode.UNSET)
        assert span.attributes == {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "rpc.response.status_code": "OK",
            "server.address": "127.0.0.1",
            "server.port": server.port,
            **({"network.peer.address": "127.0.0.1", "network.peer.port": server.port} if host_addresses else {}),
        }
        assert events(span) == []
        scope = span.instrumentation_scope
        assert scope is not None
        assert (scope.name, scope.version) == ("meshlib", meshlib.__version__)
        assert scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"


@both_shells
def test_the_server_of_a_span_is_the_name_asked_for(shell: Shell, traces: Traces, metrics: Metrics) -> None:
    """A service by its bare name has no port, whichever its instances listen on."""
    with Server() as server:
        os.environ["MESHLIB_SVC_A_ENDPOINTS"] = server.address
        try:
            providers = {"tracer_provider": traces.provider, "meter_provider": metrics.provider}
            policy = meshlib.TelemetryPolicy(host_addresses=True)
            assert call(shell, "unary_unary", "svc-a", telemetry=policy, **providers) == "OK"
        finally:
            del os.environ["MESHLIB_SVC_A_ENDPOINTS"]
        attributes = traces.one().attributes
        assert attributes is not None
        assert attributes["server.address"] == "svc-a"
        assert "server.port" not in attributes
        assert attributes["network.peer.port"] == server.port
        (key,) = metrics.points("rpc.client.call.duration")
        assert dict(key)["server.address"] == "svc-a"


@all_kinds
@both_shells
def test_a_retry_is_an_event_of_the_one_span(shell: Shell, kind: str, traces: Traces) -> None:
    """The failure, the wait and the second attempt are events, in order; the span ends well."""
    with Server() as server:
        server.fault(code="UNAVAILABLE", times=1)
        assert call(shell, kind, static(server), tracer_provider=traces.provider) == "OK"
    span = traces.one()
    told = events(span)
    delay = told[1][1].pop("meshlib.retry.delay")
    assert told == [
        ("load", {"meshlib.attempt.n": 1, "rpc.response.status_code": "UNAVAILABLE"}),
        ("retry", {"meshlib.attempt.n": 1}),
        ("in_flight", {"meshlib.attempt.n": 2, "meshlib.attempt.why": "retry"}),
    ]
    assert isinstance(delay, float)
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["rpc.response.status_code"] == "OK"
    assert "error.type" not in span.attributes


@both_shells
def test_a_failed_call_is_an_error(shell: Shell, traces: Traces) -> None:
    """The server's code is the status and the type of the error; its message is the description."""
    with Server() as server:
        server.fault(code="NOT_FOUND", details="no such thing")
        assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "NOT_FOUND"
    span = traces.one()
    assert span.attributes is not None
    assert span.attributes["error.type"] == span.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no such thing")


@both_shells
def test_a_call_that_is_never_sent_has_its_span_too(shell: Shell, traces: Traces, metrics: Metrics) -> None:
    """No server listens: UNAVAILABLE, with the refused attempts as events and the reason as description."""
    with Server() as server:
        server.stop()
        providers = {"tracer_provider": traces.provider, "meter_provider": metrics.provider}
        assert call(shell, "unary_unary", static(server), **providers) == "UNAVAILABLE"
    span = traces.one()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "UNAVAILABLE"
    assert "refused" in str(span.status.description)
    assert "load" in [name for name, _ in events(span)]
    (key,) = metrics.points("rpc.client.call.duration")
    assert dict(key)["error.type"] == "UNAVAILABLE"


def test_a_cancelled_call_ends_its_span(traces: Traces) -> None:
    """The span of a call ends when its caller cancels it."""
    with Server() as server, meshlib.channel(static(server), tracer_provider=traces.provider) as channel:
        server.fault(hang=True)
        stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=DEADLINE)
        server.wait_until(lambda server: server.in_flight == 1)
        stream.cancel()
        _expect(traces.one(), "CANCELLED")


async def test_a_cancelled_call_ends_its_span_in_asyncio(traces: Traces) -> None:
    """The span of a call ends when its task is cancelled."""
    with Server() as server:
        async with aio.channel(static(server), tracer_provider=traces.provider) as channel:
            server.fault(hang=True)

            async def caller() -> None:
                await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)

            task = asyncio.create_task(caller())
            await asyncio.to_thread(server.wait_until, lambda server: server.in_flight == 1)
            task.cancel()
            await asyncio.wait([task])
            _expect(traces.one(), "CANCELLED")


def test_an_abandoned_stream_ends_its_span(traces: Traces) -> None:
    """Without references it is collected and cancelled, and its span ends."""
    with Server() as server, meshlib.channel(static(server), tracer_provider=traces.provider) as channel:
        stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", metadata=((echo.COUNT, "1000000"),))
        next(stream)
        del stream
        gc.collect()
        _expect(traces.one(), "CANCELLED")


@both_shells
def test_a_closed_channel_ends_the_spans_of_its_calls(shell: Shell, traces: Traces) -> None:
    """Calls inside a server end with the channel, and so do their spans."""

    async def close_during_a_call() -> None:
        async with aio.channel(static(server), tracer_provider=traces.provider) as channel:
            made = channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            await asyncio.to_thread(server.wait_until, lambda server: server.in_flight == 1)
        assert made.done()

    with Server() as server:
        server.fault(hang=True)
        if shell == "aio":
            asyncio.run(close_during_a_call())
        else:
            with meshlib.channel(static(server), tracer_provider=traces.provider) as channel:
                held = channel.unary_unary(echo.UNARY).future(b"x", timeout=DEADLINE)
                server.wait_until(lambda server: server.in_flight == 1)
            until(held.done)
    _expect(traces.one(), "CANCELLED")


def _expect(span: ReadableSpan, code: str) -> None:
    assert span.attributes is not None
    assert (span.attributes["rpc.response.status_code"], span.attributes["error.type"]) == (code, code)
    assert span.status.status_code is StatusCode.ERROR
