"""Spans and measurements of calls, kept in this process."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.e2e.load import SHELLS, Shell
from tests.waiting import until

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo

DEADLINE = 10.0
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
        until(lambda: self.spans, "a span has ended")
        (span,) = self.spans
        return span


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


def received_metadata(server: Server, key: str) -> list[str]:
    """The values of one key of the request metadata, call by call."""
    return [str(value) for received in server.received for name, value in received.metadata if name == key]


def output_of(program: str, *arguments: str) -> list[str]:
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


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    """The events of a call, except the wait for the first connection of its channel."""
    return [(event.name, dict(event.attributes or {})) for event in span.events if event.name != "pick"]


def processed(processor: SpanProcessor) -> TracerProvider:
    """A tracer provider with that processor."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider
