"""One span and one measurement for each call, the trace in the server, and nothing twice."""

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from tests.e2e.load import SHELLS, Shell

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo, servers

DEADLINE = 10.0
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
METHODS = {
    "unary_unary": echo.UNARY,
    "unary_stream": echo.SERVER_STREAM,
    "stream_unary": echo.CLIENT_STREAM,
    "stream_stream": echo.BIDI_STREAM,
}

both_shells = pytest.mark.parametrize("shell", SHELLS)
all_kinds = pytest.mark.parametrize("kind", METHODS)

Metadata = tuple[tuple[str, str], ...]


class Traces:
    """Spans that have ended, in this process."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans, in order of their ends."""
        return self._exporter.get_finished_spans()

    def one(self) -> ReadableSpan:
        """The only span; waits for it."""
        deadline = time.monotonic() + DEADLINE
        while not self.spans:
            assert time.monotonic() < deadline, "no span ended"
            time.sleep(0.005)
        (span,) = self.spans
        return span


@pytest.fixture
def traces() -> Traces:
    """A tracer provider of this test's own."""
    return Traces()


class Metrics:
    """Measurements, read on request."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def points(self, name: str) -> dict[Mapping[str, Any], Any]:
        """The data points of the metric by their attributes."""
        data = self._reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        found = {
                            frozenset((point.attributes or {}).items()): point for point in metric.data.data_points
                        }
        return found

    def values(self, name: str, attribute: str) -> dict[Any, Any]:
        """The values of the metric by one attribute."""
        return {dict(key)[attribute]: point.value for key, point in self.points(name).items()}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """A meter provider of this test's own."""
    made = Metrics()
    yield made
    made.provider.shutdown()


def static(*all_servers: Server) -> str:
    """The target that lists the servers."""
    return "static:///" + ",".join(server.address for server in all_servers)


def call(
    shell: Shell, kind: str, target: str, metadata: Metadata = (), method: str | None = None, **options: Any
) -> str:
    """Make one call of any kind on a new channel; returns the name of its status code."""
    if shell == "aio":
        return asyncio.run(_aio_call(kind, target, metadata, method, options))
    with meshlib.channel(target, **options) as channel:
        requests = iter([b"a", b"b"]) if kind.startswith("stream") else b"ab"
        multicallable = getattr(channel, kind)(method or METHODS[kind])
        try:
            response = multicallable(requests, timeout=DEADLINE, metadata=metadata)
            if kind.endswith("stream"):
                list(response)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


async def _aio_call(kind: str, target: str, metadata: Metadata, method: str | None, options: dict[str, Any]) -> str:
    async with aio.channel(target, **options) as channel:
        requests = iter([b"a", b"b"]) if kind.startswith("stream") else b"ab"
        made = getattr(channel, kind)(method or METHODS[kind])(requests, timeout=DEADLINE, metadata=metadata)
        try:
            if kind.endswith("stream"):
                async for _ in made:
                    pass
            else:
                await made
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "OK"


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    """The events of a call, except the wait for the first connection of its channel."""
    return [(event.name, dict(event.attributes or {})) for event in span.events if event.name != "pick"]


# --- spans ---


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
            _until(held.done)
    _expect(traces.one(), "CANCELLED")


def _expect(span: ReadableSpan, code: str) -> None:
    assert span.attributes is not None
    assert (span.attributes["rpc.response.status_code"], span.attributes["error.type"]) == (code, code)
    assert span.status.status_code is StatusCode.ERROR


# --- the trace in the server ---


def _received(server: Server, key: str) -> list[str]:
    return [str(value) for received in server.received for name, value in received.metadata if name == key]


@all_kinds
@both_shells
def test_every_attempt_carries_the_trace(shell: Shell, kind: str, traces: Traces) -> None:
    """The span is a child of the application's, and both attempts of the call name it as theirs."""
    tracer = traces.provider.get_tracer("application")
    with Server() as server, tracer.start_as_current_span("request") as request:
        server.fault(code="UNAVAILABLE", times=1)
        assert call(shell, kind, static(server), tracer_provider=traces.provider) == "OK"
        assert server.calls.total() == 2
        span, context = traces.one(), request.get_span_context()
        assert span.parent == context
        assert span.context is not None
        ids = f"00-{context.trace_id:032x}-{span.context.span_id:016x}"
        assert _received(server, "traceparent") == [f"{ids}-{context.trace_flags:02x}"] * 2
        assert context.trace_flags & TraceFlags.SAMPLED


@all_kinds
@both_shells
def test_a_key_of_the_callers_own_is_not_replaced(shell: Shell, kind: str, traces: Traces) -> None:
    """A gateway that forwards a trace by hand still can; its other metadata arrives as well."""
    own = (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("x-tenant", "acme"))
    with Server() as server:
        assert call(shell, kind, static(server), own, tracer_provider=traces.provider) == "OK"
        assert _received(server, "traceparent") == [own[0][1]]
        assert _received(server, "x-tenant") == ["acme"]


@both_shells
def test_a_trace_that_is_not_sampled_is_passed_on(shell: Shell) -> None:
    """The server gets the flag not to record either."""
    traces = Traces(sampler=ALWAYS_OFF)
    with Server() as server:
        assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"
        (flags,) = [value.rpartition("-")[2] for value in _received(server, "traceparent")]
        assert not int(flags, 16) & TraceFlags.SAMPLED
    assert traces.spans == ()


@all_kinds
@both_shells
def test_without_a_provider_there_is_nothing(shell: Shell, kind: str) -> None:
    """No span, no header, no error; an external trace is passed on unchanged."""
    with Server() as server:
        assert call(shell, kind, static(server)) == "OK"
        assert _received(server, "traceparent") == []
        outside = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=True, trace_flags=TraceFlags(1))
        with trace.use_span(NonRecordingSpan(outside)):
            assert call(shell, kind, static(server)) == "OK"
        assert _received(server, "traceparent") == [f"00-{0xABC:032x}-{0xDEF:016x}-01"]


@both_shells
def test_baggage_is_passed_on(shell: Shell, traces: Traces) -> None:
    """Baggage is passed on beside a span, and without any provider."""
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        with Server() as server:
            assert call(shell, "unary_unary", static(server)) == "OK"
            assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"
            assert _received(server, "baggage") == ["tenant=acme"] * 2
    finally:
        context.detach(token)


# --- metrics ---


@all_kinds
@both_shells
def test_one_measurement_for_each_call(shell: Shell, kind: str, metrics: Metrics) -> None:
    """The whole duration, including retries, in the buckets of the conventions; a failure is another series."""
    with Server() as server:
        target = static(server)
        server.fault(code="UNAVAILABLE", times=1)
        assert call(shell, kind, target, meter_provider=metrics.provider) == "OK"
        server.fault(code="NOT_FOUND", times=1)
        assert call(shell, kind, target, meter_provider=metrics.provider) == "NOT_FOUND"
    common = {
        "rpc.system.name": "grpc",
        "rpc.method": METHODS[kind].removeprefix("/"),
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    points = metrics.points("rpc.client.call.duration")
    assert points.keys() == {
        frozenset({**common, "rpc.response.status_code": "OK"}.items()),
        frozenset({**common, "rpc.response.status_code": "NOT_FOUND", "error.type": "NOT_FOUND"}.items()),
    }
    for point in points.values():
        assert (point.count, point.explicit_bounds) == (1, BOUNDS)
        assert 0 < point.sum < DEADLINE


@both_shells
def test_hosts_and_calls_under_way_are_read_when_asked_for(shell: Shell, metrics: Metrics) -> None:
    """Hosts by state and attempts in flight; none after close, no series after collection."""

    def hosts() -> dict[str, int]:
        return metrics.values("meshlib.hosts", "meshlib.host.state")

    def check() -> None:
        _until(lambda: hosts().get("TRANSIENT_FAILURE") == 1)
        assert hosts() == {"IDLE": 0, "CONNECTING": 0, "READY": 1, "TRANSIENT_FAILURE": 1}
        # A target other than a single name and address is its own name.
        assert metrics.values("meshlib.attempts.in_flight", "server.address") == {target: 1}
        assert metrics.values("meshlib.retry.refusals", "server.address") == {target: 0}

    def in_threads() -> None:
        with meshlib.channel(target, meter_provider=metrics.provider) as channel:
            future = channel.unary_unary(echo.UNARY).future(b"x", timeout=DEADLINE)
            up.wait_until(lambda server: server.in_flight == 1)
            check()
            up.heal()
            future.result(DEADLINE)
        assert set(hosts().values()) == {0}

    async def in_asyncio() -> None:
        async with aio.channel(target, meter_provider=metrics.provider) as channel:
            made = channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            await asyncio.to_thread(up.wait_until, lambda server: server.in_flight == 1)
            await asyncio.to_thread(check)
            up.heal()
            await made
        assert set(hosts().values()) == {0}

    with servers(2) as (up, down):
        down.stop()
        target = static(up, down)
        up.fault(hang=True)
        if shell == "aio":
            asyncio.run(in_asyncio())
        else:
            in_threads()
    gc.collect()
    assert hosts() == {}


def test_two_channels_share_the_instruments_of_a_provider(metrics: Metrics) -> None:
    """Both are measured, each under its target, and OpenTelemetry is not asked for an instrument twice."""
    with servers(2) as (a, b):
        for server in (a, b):
            assert call("sync", "unary_unary", static(server), meter_provider=metrics.provider) == "OK"
    assert {dict(key)["server.port"] for key in metrics.points("rpc.client.call.duration")} == {a.port, b.port}


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- beside others ---

BESIDE = """
import asyncio, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

def instrument():
    from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
    GrpcInstrumentorClient().instrument()
    GrpcAioInstrumentorClient().instrument()

exporter = InMemorySpanExporter()
if sys.argv[2] == "before":
    instrument()
import meshlib
from meshlib import aio
from meshlib.testing import echo
if sys.argv[2] == "after":
    instrument()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

async def main():
    for make in (aio.channel, aio.insecure_channel):
        async with make(sys.argv[1]) as channel:
            await channel.unary_unary(echo.UNARY)(b"x", timeout=10)
            async for _ in channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10):
                pass

for make in (meshlib.channel, meshlib.insecure_channel):
    with make(sys.argv[1]) as channel:
        channel.unary_unary(echo.UNARY)(b"x", timeout=10)
        list(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10))
asyncio.run(main())
for span in exporter.get_finished_spans():
    print(span.instrumentation_scope.name, span.name)
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_nothing_is_traced_twice_beside_other_instrumentation(order: str) -> None:
    """With opentelemetry-instrumentation-grpc, set up before or after the import, a call has the mesh's span alone."""
    if find_spec("opentelemetry.instrumentation.grpc") is None:
        pytest.skip("opentelemetry-instrumentation-grpc is not installed")
    with Server() as server:
        assert (
            _run(BESIDE, server.address, order)
            == [
                "meshlib meshlib.testing.Echo/Unary",
                "meshlib meshlib.testing.Echo/ServerStream",
            ]
            * 4
        )


SETUP = """
import sys
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import meshlib
from meshlib import telemetry
from meshlib.testing import echo
channel = meshlib.channel(sys.argv[1])  # before there is a provider, as at import
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
shutdown = telemetry.setup(service_name="shop", span_exporter=exporter, metric_reader=reader)
with channel:
    channel.unary_unary(echo.UNARY)(b"x", timeout=10)
(resource,) = reader.get_metrics_data().resource_metrics
print(resource.resource.attributes["service.name"], sorted(m.name for m in resource.scope_metrics[0].metrics)[-1])
shutdown()
(span,) = exporter.get_finished_spans()
print(span.resource.attributes["service.name"], span.name)
"""


def test_setup_gives_an_application_providers_of_its_own() -> None:
    """An earlier channel uses them too; pending data is sent at the end."""
    with Server() as server:
        assert _run(SETUP, server.address) == [
            "shop rpc.client.call.duration",
            "shop meshlib.testing.Echo/Unary",
        ]


LATE = """
import sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import meshlib
from meshlib import telemetry
from meshlib.testing import echo
exporter, deadline = InMemorySpanExporter(), time.monotonic() + 10
with meshlib.channel(sys.argv[1]) as channel:
    call = channel.unary_unary(echo.UNARY)
    call(b"x", timeout=10)
    shutdown = telemetry.setup(service_name="shop", span_exporter=exporter)
    while not exporter.get_finished_spans() and time.monotonic() < deadline:
        call(b"x", timeout=10)
        trace.get_tracer_provider().force_flush()
shutdown()
print({span.name for span in exporter.get_finished_spans()})
"""


def test_a_provider_that_is_set_after_the_first_call_is_noticed() -> None:
    """The channel checks for one periodically, and traces from then on."""
    with Server() as server:
        assert _run(LATE, server.address) == ["{'meshlib.testing.Echo/Unary'}"]


def _run(program: str, *arguments: str) -> list[str]:
    """The output lines of a separate process: it sets global state."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
