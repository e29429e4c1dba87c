"""Metadata that telemetry adds to a call."""

from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from meshlib._core.call import Call
from meshlib._core.policy import Plan
from meshlib._core.target import parse_target
from meshlib.telemetry._channel import Telemetry

PARENT = SpanContext(0x1, 0x2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("vendor", "1")]))


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ((), {"traceparent", "tracestate"}),
        ((("key", "value"),), {"traceparent", "tracestate"}),
        ((("traceparent", "00-mine"),), set()),
    ],
)
def test_the_context_of_the_span_goes_along_unless_the_caller_brings_one(
    given: tuple[tuple[str, str], ...], added: set[str]
) -> None:
    """A state without its parent would belong to another trace."""
    nobody: Any = None
    telemetry = Telemetry(parse_target("svc-a"), tracer_provider=TracerProvider())
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(PARENT)))
    try:
        sent = telemetry.call_started(Call(nobody, Plan(), "/pkg.Svc/Method"), given, 0.0)
    finally:
        context.detach(token)
    assert sent[: len(given)] == given
    assert {key for key, _ in sent[len(given) :]} == added
