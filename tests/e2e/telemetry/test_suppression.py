"""Calls whose telemetry is suppressed, and an exporter that calls over meshlib."""

from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry import context
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from tests.e2e.load import Shell
from tests.e2e.telemetry.recording import (
    Metrics,
    Traces,
    all_kinds,
    both_shells,
    call,
    output_of,
    received_metadata,
    static,
)

import meshlib
from meshlib.testing import Server, flush_logs


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
        assert received_metadata(server, "traceparent") == []
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
            assert output_of(EXPORT, f"http://127.0.0.1:{port}", service.address) == [
                "True",
                "['meshlib.testing.Echo/Unary']",
            ]
    finally:
        server.stop(None).wait()
    assert collector.names == ["meshlib.testing.Echo/Unary"] * 5
