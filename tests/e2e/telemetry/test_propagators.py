"""Propagators whose headers grpc would refuse, and one that fails."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import propagate
from opentelemetry.propagators.textmap import Setter, TextMapPropagator
from tests.e2e.load import Shell
from tests.e2e.telemetry.recording import (
    Traces,
    all_kinds,
    both_shells,
    call,
    received_metadata,
    static,
)

from meshlib.testing import Server, flush_logs


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
        assert received_metadata(server, "x-amzn-trace-id") == ["Root=1-a;Parent=b;Sampled=1"]


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
        assert received_metadata(server, "x-a") == ["1", "2"]


# --- providers ---


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
