"""Spans to an OTLP collector: one per call, with an event for each attempt beyond the first.

The collector is a class here, with the service of every OTLP collector. In production it runs elsewhere, and
``OTEL_EXPORTER_OTLP_ENDPOINT`` names it for the exporter.
"""

from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

import meshlib
from meshlib import telemetry
from meshlib.testing import Server, echo, servers


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the received spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the name is OTLP's
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [(scope.scope.name, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def add_to(self, server: grpc.Server) -> None:
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, server)


def call_twice(instances: list[Server]) -> None:
    """Make two calls; servers that are about to stop fail the second."""
    with meshlib.channel("static:///" + ",".join(server.address for server in instances)) as channel:
        unary = channel.unary_unary(echo.UNARY)
        unary(b"hello", timeout=5)
        for server in instances:
            server.fault(code="UNAVAILABLE", details="stopping", times=1)
        unary(b"hello", timeout=5)


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def main() -> None:
    collector = Collector()
    with Server(add=collector.add_to) as sink, servers(2) as instances:
        exporter = OTLPSpanExporter(endpoint=f"http://{sink.address}", insecure=True)
        shutdown = telemetry.setup(service_name="shop", span_exporter=exporter)
        call_twice(instances)
        shutdown()  # sends the remaining spans
        for scope, span in collector.spans:
            print(scope, span.name, attributes(span.attributes)["rpc.response.status_code"])
            for event in span.events:
                print("   ", event.name, attributes(event.attributes))
        contexts = [dict(call.metadata).get("traceparent") for server in instances for call in server.received]
        print("every attempt carried the context of its span:", all(contexts), len(contexts))


if __name__ == "__main__":
    main()
