"""The options of ``TelemetryPolicy``, and telemetry only of retried calls; finally over OTLP."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from tests.e2e.load import Shell
from tests.e2e.telemetry.recording import DEADLINE, METHODS, Metrics, Traces, all_kinds, both_shells, call, static
from tests.waiting import until

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo, flush_logs, servers

QUICK = meshlib.RetryPolicy(initial_backoff=0.001, max_backoff=0.001)


def parents(server: Server) -> list[int]:
    """The parent span of each attempt, as the server received it."""
    told = [dict(received.metadata)["traceparent"] for received in server.received]
    return [int(str(value).split("-")[2], 16) for value in told]


# --- a span for each attempt ---


@all_kinds
@both_shells
def test_a_span_for_each_attempt(shell: Shell, kind: str, traces: Traces) -> None:
    """The span is below that of the call; the server sees the attempt's as its parent (gRFC A72)."""
    policy = meshlib.TelemetryPolicy(attempt_spans=True)
    with Server() as server:
        server.fault(code="UNAVAILABLE", times=1)
        options: Any = {"telemetry": policy, "tracer_provider": traces.provider, "retry": QUICK}
        assert call(shell, kind, static(server), **options) == "OK"
        seen = parents(server)
    first, second, whole = sorted(traces.spans, key=lambda span: span.end_time or 0)
    name = METHODS[kind].removeprefix("/")
    assert [first.name, second.name, whole.name] == [f"Attempt.{name}", f"Attempt.{name}", name]
    assert {span.kind for span in traces.spans} == {SpanKind.CLIENT}
    assert [parent(first), parent(second)] == [whole.context.span_id] * 2
    assert seen == [first.context.span_id, second.context.span_id]
    assert [attributes(span)["rpc.response.status_code"] for span in (first, second)] == ["UNAVAILABLE", "OK"]
    assert [attributes(span)["meshlib.attempt.why"] for span in (first, second)] == ["first", "retry"]
    assert attributes(first)["network.peer.port"] == server.port


@both_shells
def test_an_attempt_with_a_span_sends_the_metadata_of_the_caller_once(shell: Shell, traces: Traces) -> None:
    """Each attempt sends the caller's metadata, and the header of its own span."""
    policy = meshlib.TelemetryPolicy(attempt_spans=True)
    with Server() as server:
        server.fault(code="UNAVAILABLE", times=1)
        options: Any = {"telemetry": policy, "tracer_provider": traces.provider, "retry": QUICK}
        metadata = (("x-tenant", "acme"),)
        assert call(shell, "unary_unary", static(server), metadata=metadata, **options) == "OK"
        sent = [[key for key, _ in each.metadata if key in ("x-tenant", "traceparent")] for each in server.received]
    assert [sorted(keys) for keys in sent] == [["traceparent", "x-tenant"]] * 2


def test_a_hedge_that_loses_ends_its_span(traces: Traces) -> None:
    """Each of two attempts has its own; the slower one's ends as cancelled, after the call's."""
    policy = meshlib.TelemetryPolicy(attempt_spans=True)
    hedging = meshlib.HedgingPolicy(max_attempts=2, hedging_delay=0.0)
    with servers(2) as (slow, quick):
        slow.fault(hang=True)
        with meshlib.channel(
            static(slow, quick), telemetry=policy, tracer_provider=traces.provider, retry=hedging
        ) as channel:
            unary = channel.unary_unary(echo.UNARY)
            grpc.channel_ready_future(channel).result(DEADLINE)  # it connects; one host may be later than the other
            until(lambda: [host.state for host in channel.mesh.snapshot().hosts] == ["READY"] * 2, "both are ready")
            unary(b"x", timeout=DEADLINE, wait_for_ready=True)
            until(lambda: len(traces.spans) % 3 == 0)
        slow.heal()
    calls = [span for span in traces.spans if not span.name.startswith("Attempt.")]
    copies = [span for span in traces.spans if span.name.startswith("Attempt.")]
    assert {parent(span) for span in copies} == {span.context.span_id for span in calls}
    assert sorted(str(attributes(span)["rpc.response.status_code"]) for span in copies) == ["CANCELLED", "OK"]


# --- measurements ---


@both_shells
def test_a_measurement_for_each_attempt(shell: Shell, metrics: Metrics) -> None:
    """Measurements have gRPC's names and buckets (A66), with the address of the host only on request."""
    with Server() as server:
        for policy, extra in (
            (meshlib.TelemetryPolicy(), None),
            (meshlib.TelemetryPolicy(attempt_metrics=True), {}),
            (
                meshlib.TelemetryPolicy(attempt_metrics=True, host_addresses=True),
                {"network.peer.address": "127.0.0.1", "network.peer.port": server.port},
            ),
        ):
            made = Metrics()
            server.fault(code="UNAVAILABLE", times=1)
            options: Any = {"telemetry": policy, "meter_provider": made.provider, "retry": QUICK}
            assert call(shell, "unary_unary", static(server), **options) == "OK"
            points = made.points("grpc.client.attempt.duration")
            made.provider.shutdown()
            if extra is None:
                assert points == {}
                continue
            about = {"grpc.method": echo.UNARY[1:], "grpc.target": f"static:///{server.address}", **extra}
            assert {
                frozenset({**about, "grpc.status": code}.items()) for code in ("OK", "UNAVAILABLE")
            } == points.keys()
            assert {point.count for point in points.values()} == {1}
            assert {point.explicit_bounds[1] for point in points.values()} == {0.00001}


@both_shells
def test_retries_are_measured_where_there_are_any(shell: Shell, metrics: Metrics) -> None:
    """Nothing is recorded for a call without retries (gRFC A96)."""
    with Server() as server:
        options: Any = {"meter_provider": metrics.provider, "retry": QUICK}
        assert call(shell, "unary_unary", static(server), **options) == "OK"
        assert metrics.points("grpc.client.call.retries") == {}
        server.fault(code="UNAVAILABLE", times=2)
        assert call(shell, "unary_unary", static(server), **options) == "OK"
    ((about, point),) = metrics.points("grpc.client.call.retries").items()
    assert dict(about) == {"grpc.method": echo.UNARY[1:], "grpc.target": f"static:///{server.address}"}
    assert (point.count, point.sum, point.explicit_bounds) == (1, 2, (1.0, 2.0, 3.0, 4.0, 5.0))
    assert metrics.points("grpc.client.call.hedges") == metrics.points("grpc.client.call.transparent_retries") == {}
    ((_, delay),) = metrics.points("grpc.client.call.retry_delay").items()
    assert delay.count == 1
    assert 0 <= delay.sum < DEADLINE


def test_connections_and_answers_of_the_resolver_are_counted(metrics: Metrics) -> None:
    """Counters have gRPC's names (A94) where it has them."""
    with servers(2) as (stays, goes):
        target = static(stays, goes)
        with meshlib.channel(target, meter_provider=metrics.provider) as channel:
            channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)

            def value(name: str, key: str = "grpc.target") -> dict[Any, Any]:
                return metrics.values(name, key)

            until(lambda: value("grpc.subchannel.open_connections") == {target: 2})
            assert value("grpc.subchannel.connection_attempts_succeeded") == {target: 2}
            goes.stop()
            until(lambda: value("grpc.subchannel.disconnections") == {target: 1})
            assert value("grpc.subchannel.open_connections") == {target: 1}
            until(lambda: value("grpc.subchannel.connection_attempts_failed")[target] >= 1)
            assert value("meshlib.retry_budget.remaining", "server.address") == {target: 3}
            assert value("meshlib.resolutions", "meshlib.resolution.outcome")["ok"] >= 1
        assert value("grpc.subchannel.open_connections") == {target: 0}


def test_hosts_one_by_one_on_request(metrics: Metrics) -> None:
    """Each host has a series."""
    with servers(2) as (a, b):
        policy = meshlib.TelemetryPolicy(host_addresses=True)
        with meshlib.channel(static(a, b), telemetry=policy, meter_provider=metrics.provider) as channel:
            channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            found = metrics.values("meshlib.hosts", "network.peer.port")
    assert found == {a.port: 1, b.port: 1}


@both_shells
def test_an_exemplar_is_the_span_of_the_call(shell: Shell, traces: Traces, metrics: Metrics) -> None:
    """An exemplar leads from a bar of a histogram to one of the calls in it."""
    with Server() as server:
        options: Any = {"tracer_provider": traces.provider, "meter_provider": metrics.provider}
        assert call(shell, "unary_unary", static(server), **options) == "OK"
    (point,) = metrics.points("rpc.client.call.duration").values()
    assert [exemplar.span_id for exemplar in point.exemplars] == [traces.one().context.span_id]


# --- the access log ---


@both_shells
def test_a_line_for_each_call(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """The access log has a line on request, with or without a provider, and never contents of requests or responses."""
    caplog.set_level(logging.INFO, "meshlib.access")
    with Server() as server:
        assert call(shell, "unary_unary", static(server)) == "OK"
        assert lines(caplog) == []
        for kind in METHODS:
            assert call(shell, kind, static(server), telemetry=meshlib.TelemetryPolicy(access_log=True)) == "OK"
            flush_logs()  # before the next call: the lines of some are written on a thread of their own
    assert [record.__dict__["meshlib.method"] for record in lines(caplog)] == [m[1:] for m in METHODS.values()]
    for record in lines(caplog):
        assert record.getMessage().endswith(f" s, attempts=1, host={server.address}, flags=-")
        assert record.__dict__["meshlib.code"] == "OK"
        assert record.__dict__["meshlib.target"] == static(server)


def fails(server: Server, **fault: Any) -> Callable[[Any], None]:
    """A call that meets a fault."""

    def run(channel: Any) -> None:
        server.fault(**fault)
        with suppress(grpc.RpcError):
            channel.unary_unary(echo.UNARY)(b"x", timeout=0.2 if fault.get("hang") else DEADLINE)
        server.heal()

    return run


def nobody(channel: Any) -> None:
    """Call a service without hosts."""
    with suppress(grpc.RpcError):
        channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)


def cancelled(channel: Any) -> None:
    """Make a call and cancel it."""
    future = channel.unary_unary(echo.UNARY).future(b"x", metadata=((echo.DELAY_MS, "500"),))
    until(lambda: any(host.in_flight for host in channel.mesh.snapshot().hosts))
    future.cancel()


@pytest.mark.parametrize(
    ("flags", "fault", "options"),
    [
        ("", {"code": "NOT_FOUND"}, {}),
        ("URX", {"code": "UNAVAILABLE"}, {"retry": QUICK}),
        ("", {"code": "UNAVAILABLE"}, {"retry": None}),
        ("UT", {"hang": True}, {}),
        ("UO", {}, {"circuit_breaker": meshlib.CircuitBreaker(max_requests=0)}),
        ("UF", "stopped", {"retry": None}),
        ("UH", "nobody", {"retry": None}),
        ("DC", "cancelled", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_envoys_response_flags(
    flags: str, fault: Any, options: Mapping[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A flag gives the cause of a failure, in two or three letters."""
    caplog.set_level(logging.INFO, "meshlib.access")
    policy = meshlib.TelemetryPolicy(access_log=True)
    with Server() as server:
        run = {"stopped": nobody, "nobody": nobody, "cancelled": cancelled}.get(str(fault)) or fails(server, **fault)
        target = static(server)
        if fault == "stopped":
            server.stop()
        if fault == "nobody":
            target = "empty:///"
            options = {**options, "resolver": Empty()}
        with meshlib.channel(target, telemetry=policy, **options) as channel:
            run(channel)
            until(lambda: bool(lines(caplog)))
    assert [record.__dict__["meshlib.flags"] for record in lines(caplog)] == [flags]


class Empty:
    """A resolver of a service without hosts."""

    def resolve(self, previous: object) -> Any:
        return meshlib.discovery.Resolution(endpoints=())


# --- over OTLP ---


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Like a real collector's service: keeps the received spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the name is OTLP's
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def add_to(self, server: grpc.Server) -> None:
        """Register it with the server."""
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, server)


@pytest.mark.shares_process_state  # OpenTelemetry 1.30 never closes an exporter's channel
def test_parents_are_right_in_threads_and_tasks() -> None:
    """At a collector each call is below the span that was current at its start, each attempt below its call, whatever
    ran beside it."""
    collector = Collector()
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("application")
    options: Any = {
        "telemetry": meshlib.TelemetryPolicy(attempt_spans=True),
        "tracer_provider": provider,
        "retry": meshlib.RetryPolicy(max_attempts=8, initial_backoff=0.001, max_backoff=0.001),
        "retry_budget": None,
    }

    def in_thread(channel: Any, n: int) -> None:
        with tracer.start_as_current_span(f"thread {n}"):
            channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)

    async def in_tasks(target: str) -> None:
        async with aio.channel(target, **options) as channel:

            async def one(n: int) -> None:
                with tracer.start_as_current_span(f"task {n}"):
                    await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)

            await asyncio.gather(*(one(n) for n in range(8)))

    with Server(add=collector.add_to) as sink, servers(2) as instances:
        exporter = OTLPSpanExporter(endpoint=f"http://{sink.address}", insecure=True)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        target = static(*instances)
        for server in instances:
            server.fault(code="UNAVAILABLE", times=3)
        with meshlib.channel(target, **options) as channel:
            threads = [threading.Thread(target=in_thread, args=(channel, n)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
        asyncio.run(in_tasks(target))
        seen = {parent for server in instances for parent in parents(server)}
        provider.shutdown()
    by_id = {span.span_id: span for span in collector.spans}
    calls = [span for span in collector.spans if span.name == echo.UNARY[1:]]
    attempts = [span for span in collector.spans if span.name.startswith("Attempt.")]
    above = sorted(by_id[span.parent_span_id].name for span in calls)
    assert above == sorted([f"thread {n}" for n in range(8)] + [f"task {n}" for n in range(8)])
    assert {by_id[span.parent_span_id].name for span in attempts} == {echo.UNARY[1:]}
    assert len(attempts) == 16 + 6
    assert {int.from_bytes(span.span_id) for span in attempts} == seen


@pytest.mark.shares_process_state  # OpenTelemetry 1.30 never closes an exporter's channel
def test_a_collector_that_is_down_costs_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """Spans are lost, calls are not, and none of them waits for it."""
    provider = TracerProvider(shutdown_on_exit=False)
    with Server() as down, Server() as server:
        down.stop()
        exporter = OTLPSpanExporter(endpoint=f"http://{down.address}", insecure=True, timeout=1)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1))
        with meshlib.channel(static(server), tracer_provider=provider, retry=None) as channel:
            unary = channel.unary_unary(echo.UNARY)
            assert {unary(b"x", timeout=DEADLINE) for _ in range(100)} == {b"x"}
        if not hasattr(exporter, "_shutdown_in_progress"):
            exporter._shutdown = True  # type: ignore[attr-defined]  # or OpenTelemetry 1.30 retries for a minute
        provider.shutdown()
    assert server.calls.total() == 100


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The lines of the access log."""
    return [record for record in caplog.records if record.name == "meshlib.access"]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    """The id of the parent span."""
    return None if span.parent is None else span.parent.span_id
