"""The trace and the baggage that a server receives."""

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from tests.e2e.load import Shell
from tests.e2e.telemetry.recording import Traces, all_kinds, both_shells, call, received_metadata, static

from meshlib.testing import Server


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
        assert received_metadata(server, "traceparent") == [f"{ids}-{context.trace_flags:02x}"] * 2
        assert context.trace_flags & TraceFlags.SAMPLED


@all_kinds
@both_shells
def test_a_key_of_the_callers_own_is_not_replaced(shell: Shell, kind: str, traces: Traces) -> None:
    """A gateway that forwards a trace by hand still can; its other metadata arrives as well."""
    own = (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("x-tenant", "acme"))
    with Server() as server:
        assert call(shell, kind, static(server), own, tracer_provider=traces.provider) == "OK"
        assert received_metadata(server, "traceparent") == [own[0][1]]
        assert received_metadata(server, "x-tenant") == ["acme"]


@both_shells
def test_a_trace_that_is_not_sampled_is_passed_on(shell: Shell) -> None:
    """The server gets the flag not to record either."""
    traces = Traces(sampler=ALWAYS_OFF)
    with Server() as server:
        assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"
        (flags,) = [value.rpartition("-")[2] for value in received_metadata(server, "traceparent")]
        assert not int(flags, 16) & TraceFlags.SAMPLED
    assert traces.spans == ()


@all_kinds
@both_shells
def test_without_a_provider_there_is_nothing(shell: Shell, kind: str) -> None:
    """No span, no header, no error; an external trace is passed on unchanged."""
    with Server() as server:
        assert call(shell, kind, static(server)) == "OK"
        assert received_metadata(server, "traceparent") == []
        outside = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=True, trace_flags=TraceFlags(1))
        with trace.use_span(NonRecordingSpan(outside)):
            assert call(shell, kind, static(server)) == "OK"
        assert received_metadata(server, "traceparent") == [f"00-{0xABC:032x}-{0xDEF:016x}-01"]


@both_shells
def test_baggage_is_passed_on(shell: Shell, traces: Traces) -> None:
    """Baggage is passed on with a span, and without any provider."""
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        with Server() as server:
            assert call(shell, "unary_unary", static(server)) == "OK"
            assert call(shell, "unary_unary", static(server), tracer_provider=traces.provider) == "OK"
            assert received_metadata(server, "baggage") == ["tenant=acme"] * 2
    finally:
        context.detach(token)
