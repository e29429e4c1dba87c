"""Telemetry that fails: no call fails or is lost, and what can be recorded is."""

import logging
import threading
from typing import Any, NoReturn

import grpc
import pytest
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import NoOpTracerProvider
from tests.e2e.load import Shell
from tests.e2e.telemetry.recording import (
    Metrics,
    Traces,
    all_kinds,
    both_shells,
    call,
    processed,
    static,
)

import meshlib
from meshlib.testing import Server, echo, flush_logs

# --- providers ---


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
    """Fail as a serializer."""
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
