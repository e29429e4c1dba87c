"""Telemetry that fails, is suppressed or is set up twice: no call fails or is lost, and none is traced twice."""

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from types import FrameType
from typing import Any, NoReturn

import grpc
import pytest
from opentelemetry import context, propagate
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.propagators.textmap import Setter, TextMapPropagator
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import NoOpTracerProvider
from tests.e2e.load import SHELLS, Shell
from tests.e2e.telemetry.test_telemetry import (
    METHODS,
    Metrics,
    Traces,
    _received,
    _run,
    _until,
    call,
    metrics,
    static,
    traces,
)

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo, flush_logs

__all__ = ["metrics", "traces"]  # fixtures

both_shells = pytest.mark.parametrize("shell", SHELLS)
all_kinds = pytest.mark.parametrize("kind", METHODS)


class Headers(TextMapPropagator):
    """Injects the given headers; raises a given class of exceptions."""

    def __init__(self, **headers: Any) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        return context

    def inject(self, carrier: Any, context: Any = None, setter: Setter[Any] | None = None) -> None:
        for name, value in self.headers.items():
            if isinstance(value, type):
                raise value("a broken propagator")
            carrier[name] = value

    @property
    def fields(self) -> set[str]:
        return set(self.headers)


@pytest.fixture
def propagator(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set the propagator of the parameter globally."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(request.param)
    yield
    propagate.set_global_textmap(before)


# --- propagators ---


@pytest.mark.parametrize("propagator", [Headers(X_Amzn_Trace_Id="Root=1-a;Parent=b;Sampled=1")], indirect=True)
@all_kinds
@both_shells
def test_a_header_with_capitals_is_sent_in_lower_case(
    shell: Shell, kind: str, propagator: None, traces: Traces
) -> None:
    """AWS X-Ray's header reaches the server, and the call succeeds."""
    with Server() as server:
        assert call(shell, kind, static(server), tracer_provider=traces.provider) == "OK"
        assert _received(server, "x-amzn-trace-id") == ["Root=1-a;Parent=b;Sampled=1"]


@pytest.mark.parametrize(
    "propagator",
    [Headers(**{"traceparent": "00-ok", "x y": "1", "x-n": "a\nb", "x-u": "ä", "x-bin": "text"})],
    indirect=True,
)
@both_shells
def test_a_header_that_grpc_refuses_is_left_out(shell: Shell, propagator: None, traces: Traces) -> None:
    """The other headers are sent, and the call succeeds."""
    with Server() as server:
        assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"
        (request,) = server.received
        assert {key for key, _ in request.metadata if key.startswith(("x", "trace"))} == {"traceparent"}


@pytest.mark.parametrize("propagator", [Headers(traceparent="ä")], indirect=True)
@both_shells
def test_a_usual_header_with_an_illegal_value_is_left_out(shell: Shell, propagator: None, traces: Traces) -> None:
    """The value of a header is checked too, whatever its name."""
    with Server() as server:
        assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"


@pytest.mark.parametrize("propagator", [Headers(**{"X-A": "1", "x-a": "2", "x-b": "3"})], indirect=True)
@both_shells
def test_headers_that_differ_in_capitals_alone_are_all_sent(shell: Shell, propagator: None, traces: Traces) -> None:
    """Headers of one lower-case name are all sent: metadata may repeat a key."""
    with Server() as server:
        assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"
        assert _received(server, "x-a") == ["1", "2"]


# --- suppression ---


@all_kinds
@both_shells
def test_a_suppressed_call_leaves_nothing(
    shell: Shell, kind: str, traces: Traces, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Under suppress_instrumentation a call has no span, no measurement, no trace in its metadata and no access log."""
    caplog.set_level("INFO", "meshlib.access")
    policy = meshlib.TelemetryPolicy(attempt_spans=True, attempt_metrics=True, access_log=True)
    options = {"tracer_provider": traces.provider, "meter_provider": metrics.provider, "telemetry": policy}
    with Server() as server:
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            assert call(shell, kind, static(server), **options) == "OK"
        finally:
            context.detach(token)
        assert _received(server, "traceparent") == []
    assert traces.spans == ()
    assert metrics.points("rpc.client.call.duration") == metrics.points("grpc.client.attempt.duration") == {}
    flush_logs()
    assert [record for record in caplog.records if record.name == "meshlib.access"] == []


@pytest.mark.parametrize(
    "key", ["suppress_instrumentation", context._SUPPRESS_INSTRUMENTATION_KEY], ids=["plain", "of the SDK"]
)
@both_shells
def test_a_call_is_traced_where_suppression_is_off(shell: Shell, key: str, traces: Traces) -> None:
    """A context whose suppression key is False suppresses nothing."""
    with Server() as server:
        token = context.attach(context.set_value(key, False))
        try:
            assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"
        finally:
            context.detach(token)
    traces.one()


EXPORT = """
import sys
import grpc, meshlib
grpc.insecure_channel = meshlib.insecure_channel  # before the exporter takes the name
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc import exporter as otlp
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from meshlib.testing import echo
assert otlp.insecure_channel is meshlib.insecure_channel
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
tracers = TracerProvider()
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=sys.argv[1], insecure=True)))
trace.set_tracer_provider(tracers)
with meshlib.channel(sys.argv[2]) as channel:
    for _ in range(5):
        channel.unary_unary(echo.UNARY)(b"x", timeout=10)
print(tracers.force_flush(10_000))
tracers.shutdown()
(resource,) = reader.get_metrics_data().resource_metrics
print(sorted(
    point.attributes["rpc.method"]
    for scope in resource.scope_metrics for metric in scope.metrics
    if metric.name == "rpc.client.call.duration" for point in metric.data.data_points
))
"""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector that keeps the names of the spans."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the method
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.names += [span.name for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_an_exporter_over_meshlib_does_not_trace_itself() -> None:
    """The OTLP exporter on a channel of meshlib, with a global provider, flushes, and exports only the application's
    calls."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Server() as service:
            assert _run(EXPORT, f"http://127.0.0.1:{port}", service.address) == [
                "True",
                "['meshlib.testing.Echo/Unary']",
            ]
    finally:
        server.stop(None).wait()
    assert collector.names == ["meshlib.testing.Echo/Unary"] * 5


# --- providers ---

LATE_TRACES = """
import sys, time
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import meshlib
from meshlib import aio
from meshlib.testing import echo
metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
exporter, deadline = InMemorySpanExporter(), time.monotonic() + 5
with meshlib.channel(sys.argv[1]) as channel:
    call = channel.unary_unary(echo.UNARY)
    call(b"x", timeout=10)
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    while not exporter.get_finished_spans() and time.monotonic() < deadline:
        call(b"x", timeout=10)
print({span.name for span in exporter.get_finished_spans()})
"""


def test_a_tracer_provider_that_is_set_after_a_meter_provider_is_noticed() -> None:
    """The channel checks for both until each is set."""
    with Server() as server:
        assert _run(LATE_TRACES, server.address) == ["{'meshlib.testing.Echo/Unary'}"]


class Meter:
    """A meter whose instruments raise."""

    def __init__(self, *_: Any) -> None:
        pass

    def record(self, *_: Any) -> NoReturn:
        raise RuntimeError("a broken instrument")

    def create_histogram(self, *_: Any, **__: Any) -> "Meter":
        return self

    create_observable_counter = create_observable_up_down_counter = create_histogram


class Meters(MeterProvider):
    """Gives broken instruments, or is broken itself."""

    def __init__(self, broken: bool) -> None:
        self.broken = broken

    def get_meter(self, *_: Any, **__: Any) -> Any:
        if self.broken:
            raise RuntimeError("a broken meter provider")
        return Meter()


class Tracers(NoOpTracerProvider):
    """A tracer provider that raises."""

    def get_tracer(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("a broken tracer provider")


class Broken(Sampler):
    """A sampler that raises."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise RuntimeError("a broken sampler")

    def get_description(self) -> str:
        return "broken"


class Processor(SpanProcessor):
    """Raises at the beginning or the end of a span."""

    def __init__(self, at: str) -> None:
        self.at = at

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.at == "start":
            raise RuntimeError("a broken processor")

    def on_end(self, span: ReadableSpan) -> None:
        if self.at == "end":
            raise RuntimeError("a broken processor")


def processed(processor: SpanProcessor) -> TracerProvider:
    """A tracer provider with that processor."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


BROKEN: dict[str, Any] = {
    "tracer provider": lambda: {"tracer_provider": Tracers()},
    "sampler": lambda: {"tracer_provider": TracerProvider(sampler=Broken(), shutdown_on_exit=False)},
    "span starts": lambda: {"tracer_provider": processed(Processor("start"))},
    "span ends": lambda: {"tracer_provider": processed(Processor("end"))},
    "meter provider": lambda: {"meter_provider": Meters(broken=True)},
    "instrument": lambda: {"meter_provider": Meters(broken=False)},
}


@pytest.mark.parametrize("what", BROKEN)
@all_kinds
@both_shells
def test_broken_telemetry_fails_no_call(shell: Shell, kind: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Any exception is logged once per channel, and the call succeeds, even with a retry."""
    policy = meshlib.TelemetryPolicy(attempt_spans=True, attempt_metrics=True)
    with Server() as server:
        server.fault(code="UNAVAILABLE", times=1)
        retry = meshlib.RetryPolicy(initial_backoff=0.001)
        assert call(shell, kind, static(server), telemetry=policy, retry=retry, **BROKEN[what]()) == "OK"
    flush_logs()
    assert sum("telemetry failed" in record.getMessage() for record in caplog.records) == 1
    caplog.clear()  # the traceback keeps the call


@pytest.mark.parametrize("propagator", [Headers(traceparent=RuntimeError)], indirect=True)
@all_kinds
@both_shells
def test_a_broken_propagator_fails_no_call(
    shell: Shell, kind: str, propagator: None, traces: Traces, caplog: pytest.LogCaptureFixture
) -> None:
    """The call succeeds, and has its span."""
    with Server() as server:
        assert call(shell, kind, static(server), tracer_provider=traces.provider) == "OK"
        traces.one()
    flush_logs()
    caplog.clear()  # as above


@both_shells
def test_a_span_that_cannot_end_costs_no_measurement(
    shell: Shell, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is measured though its span processor raises."""
    options = {"tracer_provider": processed(Processor("end")), "meter_provider": metrics.provider}
    with Server() as server:
        assert call(shell, "unary_unary", static(server), **options) == "OK"
    (point,) = metrics.points("rpc.client.call.duration").values()
    assert point.count == 1
    flush_logs()
    caplog.clear()  # as above


@both_shells
def test_an_access_log_that_fails_fails_no_call(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """A filter of the application raises for the line of a call, and the call succeeds."""

    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("a broken filter")

    caplog.set_level("INFO", "meshlib.access")
    logger = logging.getLogger("meshlib.access")
    logger.addFilter(broken)
    try:
        with Server() as server:
            policy = meshlib.TelemetryPolicy(access_log=True)
            assert call(shell, "unary_unary", static(server), telemetry=policy) == "OK"
    finally:
        logger.removeFilter(broken)
        flush_logs()
        caplog.clear()  # as above


# --- interruptions ---


class SoftTimeLimit(Exception):  # noqa: N818 - as celery's
    """Raised by celery's handler."""


class Interrupting(SpanProcessor):
    """The signal arrives while the n-th span starts, or while it ends."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.left = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._count("start")

    def on_end(self, span: ReadableSpan) -> None:
        self._count("end")

    def _count(self, at: str) -> None:
        if self.at == at and threading.current_thread() is threading.main_thread():
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("kind", "at", "n"),
    [
        ("unary_unary", "start", 1),  # the span of the call
        ("unary_unary", "start", 2),  # that of the attempt
        ("unary_unary", "end", 1),
        ("unary_unary", "end", 2),
        ("stream_unary", "start", 1),
        ("stream_unary", "start", 2),  # grpc's thread ends the spans of this kind
    ],
)
def test_what_a_signal_handler_raises_inside_telemetry_reaches_the_caller(kind: str, at: str, n: int) -> None:
    """A soft time limit is not a failure of the span processor that it interrupts, and nothing is left of the call."""

    def handler(number: int, frame: FrameType | None) -> NoReturn:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        processor = Interrupting(at)
        options: dict[str, Any] = {
            "tracer_provider": processed(processor),
            "telemetry": meshlib.TelemetryPolicy(attempt_spans=True),
        }
        with Server() as server, meshlib.channel(static(server), **options) as channel:
            made = getattr(channel, kind)(METHODS[kind])

            def one() -> None:
                made(iter([b"x"]) if kind == "stream_unary" else b"x", timeout=10)

            one()  # connected, the next one starts on this thread
            processor.left = n
            with pytest.raises(SoftTimeLimit):
                one()
            one()
            _until(lambda: [host.in_flight for host in channel.mesh.snapshot().hosts] == [0])
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("at", ["start", "end"])
@all_kinds
async def test_no_asyncio_call_is_lost_to_a_signal_inside_telemetry(kind: str, at: str, n: int) -> None:
    """An interrupted caller gets the exception; otherwise the call ends as usual, and the event loop reports the
    exception."""

    def handler(number: int, frame: FrameType | None) -> NoReturn:
        raise SoftTimeLimit

    loop, processor = asyncio.get_running_loop(), Interrupting(at)
    reported: asyncio.Queue[type] = asyncio.Queue()
    loop.set_exception_handler(lambda _, about: reported.put_nowait(type(about.get("exception"))))
    policy = meshlib.TelemetryPolicy(attempt_spans=True)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with Server() as server:
            provider = processed(processor)
            async with aio.channel(static(server), tracer_provider=provider, telemetry=policy) as channel:
                made = getattr(channel, kind)(METHODS[kind])

                async def one() -> None:
                    begun = made(iter([b"x"]) if kind.startswith("stream") else b"x", timeout=10)
                    if kind.endswith("stream"):
                        async for _ in begun:
                            pass
                    else:
                        await begun

                await one()
                processor.left = n
                if (at, n) == ("start", 1):
                    with pytest.raises(SoftTimeLimit):
                        await one()
                else:
                    await one()
                    assert await reported.get() is SoftTimeLimit
                await one()
                assert [host.in_flight for host in channel.mesh.snapshot().hosts] == [0]
    finally:
        signal.signal(signal.SIGUSR1, before)


class Nested(NoOpMeterProvider):
    """A meter provider that makes a channel with itself, as one may whose exporter is a client."""

    made = 0

    def get_meter(self, *arguments: Any, **options: Any) -> Any:
        self.made += 1
        if self.made == 1:
            meshlib.channel("svc-a", meter_provider=self).close()
        return super().get_meter(*arguments, **options)


def test_a_channel_may_be_made_while_another_is() -> None:
    """The meter provider runs without a lock, so that a signal handler or the provider may make a channel."""
    done = threading.Event()

    def make() -> None:
        meshlib.channel("svc-a", meter_provider=Nested()).close()
        done.set()

    threading.Thread(target=make, daemon=True).start()
    assert done.wait(10)


# --- calls that end before they are sent ---


def unserializable(request: Any) -> NoReturn:
    raise ValueError("a broken serializer")


@pytest.mark.parametrize("kind", ["unary_unary", "with_call", "future", "unary_stream"])
def test_a_call_whose_serializer_raises_has_its_span(kind: str, traces: Traces, metrics: Metrics) -> None:
    """The failed call is traced and measured like any other, and its error has ``.mesh``."""
    providers = {"tracer_provider": traces.provider, "meter_provider": metrics.provider}
    with meshlib.channel("static:///127.0.0.1:1", **providers) as channel:
        made: Any = channel.unary_unary(echo.UNARY, unserializable)
        if kind == "unary_stream":
            made = channel.unary_stream(echo.UNARY, unserializable)
        elif kind != "unary_unary":
            made = getattr(made, kind)
        with pytest.raises(grpc.RpcError) as caught:
            made(b"x", timeout=10)
    error: Any = caught.value
    assert (error.code(), error.mesh.attempts) == (grpc.StatusCode.INTERNAL, ())
    span = traces.one()
    assert span.attributes is not None
    assert span.attributes["rpc.response.status_code"] == "INTERNAL"
    assert metrics.points("rpc.client.call.duration")


# --- beside opentelemetry-instrumentation-grpc ---

SWAPPED = """
import asyncio, sys
import grpc, grpc.aio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import meshlib
from meshlib import aio
from meshlib.testing import echo
grpc.insecure_channel, grpc.aio.insecure_channel = meshlib.insecure_channel, aio.insecure_channel
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
GrpcInstrumentorClient().instrument()
GrpcAioInstrumentorClient().instrument()
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with grpc.insecure_channel(sys.argv[1]) as channel:
    channel.unary_unary(echo.UNARY)(b"x", timeout=10)
    channel.unary_unary(echo.UNARY).future(b"x", timeout=10).result()
    channel.stream_unary(echo.CLIENT_STREAM)(iter([b"x"]), timeout=10)
    list(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10))
async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        await channel.unary_unary(echo.UNARY)(b"x", timeout=10)
        await channel.stream_unary(echo.CLIENT_STREAM)(iter([b"x"]), timeout=10)
        async for _ in channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10):
            pass
asyncio.run(main())
with trace.get_tracer("app").start_as_current_span("app"), meshlib.channel(sys.argv[1]) as channel:
    channel.unary_unary(echo.UNARY)(b"x", timeout=10)
for span in exporter.get_finished_spans():
    print(span.instrumentation_scope.name.rpartition(".")[2], span.name.removeprefix("/").rpartition("/")[2])
"""


def test_nothing_is_traced_twice_where_meshlib_stands_in_grpcs_place() -> None:
    """Instrumentation set up after meshlib's factories replaced grpc's wraps those: a call has its span, and other
    calls have meshlib's."""
    pytest.importorskip("opentelemetry.instrumentation.grpc")
    with Server() as server:
        lines = _run(SWAPPED, server.address)
    calls = ["grpc Unary", "grpc Unary", "grpc ClientStream", "grpc ServerStream"]
    assert sorted(lines) == sorted([*calls, *calls[1:], "meshlib Unary", "app app"])
