"""Providers of an application, and instrumentation by others: nothing is traced twice."""

from importlib.util import find_spec

import pytest
from tests.e2e.telemetry.recording import (
    output_of,
)

from meshlib.testing import Server

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
    """With opentelemetry-instrumentation-grpc, set up before or after the import, a call has only the mesh's span."""
    if find_spec("opentelemetry.instrumentation.grpc") is None:
        pytest.skip("opentelemetry-instrumentation-grpc is not installed")
    with Server() as server:
        assert (
            output_of(BESIDE, server.address, order)
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
        assert output_of(SETUP, server.address) == [
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
        assert output_of(LATE, server.address) == ["{'meshlib.testing.Echo/Unary'}"]


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
        assert output_of(LATE_TRACES, server.address) == ["{'meshlib.testing.Echo/Unary'}"]


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
        lines = output_of(SWAPPED, server.address)
    calls = ["grpc Unary", "grpc Unary", "grpc ClientStream", "grpc ServerStream"]
    assert sorted(lines) == sorted([*calls, *calls[1:], "meshlib Unary", "app app"])
