"""Spans and metrics of calls, by OpenTelemetry: the one file that names them.

The names are those of OpenTelemetry's RPC conventions, version 1.44 (release candidate), where they exist, and begin
with ``meshlib.`` where they do not. One CLIENT span covers a call with all its attempts; an attempt beyond the first is
an event of it. One histogram is recorded per call; everything else is a plain integer that instruments read when they
are collected. Without a provider of the application's own nothing is done at all.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from meshlib._core.call import Call
from meshlib._core.connectivity import NAMES, SHUTDOWN
from meshlib._core.errors import ConfigError
from meshlib._core.events import AttemptEnded, AttemptStarted, CallEvent, NotRetried, Retrying
from meshlib._core.status import Outcome
from meshlib._core.target import Target

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter

    from meshlib._core.cluster import Cluster

__all__ = ["Telemetry", "setup"]

SCOPE: Final = "meshlib"
SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"

# Attributes, OpenTelemetry RPC conventions 1.44.
SYSTEM: Final = "rpc.system.name"
METHOD: Final = "rpc.method"
STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
PEER_ADDRESS: Final = "network.peer.address"
PEER_PORT: Final = "network.peer.port"

# Span events are named after the stages of the chain.
EVENT_ATTEMPT: Final = "meshlib.attempt.n"
EVENT_WHY: Final = "meshlib.attempt.why"
EVENT_DELAY: Final = "meshlib.retry.delay"
EVENT_REASON: Final = "meshlib.retry.refused"

DURATION: Final = "rpc.client.call.duration"
DURATION_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
HOSTS: Final = "meshlib.hosts"
HOST_STATE: Final = "meshlib.host.state"
IN_FLIGHT: Final = "meshlib.attempts.in_flight"
BUDGET_REFUSALS: Final = "meshlib.retry_budget.refusals"

Attributes = dict[str, str | int]


class Channel(Protocol):
    """The live part of a channel, as far as instruments read it."""

    @property
    def cluster(self) -> "Cluster":
        """Its machine."""
        ...


@final
class Telemetry:
    """The telemetry of one channel.

    Args:
        target: of the channel: ``server.address`` is what the application asked for, never the host that answered.
        version: of meshlib.
        tracer_provider: None: the global one, whenever there is one.
        meter_provider: the same.
    """

    def __init__(
        self,
        target: Target,
        version: str,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._version = version
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._server: Attributes = {SERVER_ADDRESS: target.host or target.path or target.text}
        if target.port is not None:
            self._server[SERVER_PORT] = target.port
        self._tracer: Tracer | None = None
        self._duration: Histogram | None = None
        self._methods: dict[str, Attributes] = {}
        self._live: weakref.WeakSet[Any] = weakref.WeakSet()

    def watch(self, channel: Channel) -> None:
        """Instruments read ``channel`` from now on."""
        self._live.add(channel)

    def started(self, call: Call, metadata: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
        """The call begins. Returns the metadata to send: the caller's, with the context of the span."""
        tracer = self._tracer or self._find_tracer()
        if tracer is None:
            return metadata
        span = tracer.start_span(call.method[1:], kind=SpanKind.CLIENT)
        if span.is_recording():
            span.set_attributes(self._attributes(call.method))
            call.span = span
            call.observer = self
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        if not carrier:
            return metadata
        known = {key for key, _ in metadata}
        return (*metadata, *((key, value) for key, value in carrier.items() if key not in known))

    def ended(self, call: Call, outcome: Outcome, *, now: float) -> None:
        """The call ended; told once."""
        span: Any = call.span
        if span is not None:
            self._end(span, call, outcome)
        duration = self._duration or self._find_meter()
        if duration is not None:
            attributes = {**self._attributes(call.method), STATUS: outcome.code}
            if outcome.code != "OK":
                attributes[ERROR_TYPE] = outcome.code
            duration.record(now - call.begun, attributes)

    def on_call_event(self, call: Call, event: CallEvent) -> None:
        """What happens to a call between its beginning and its end becomes an event of its span."""
        span: Any = call.span
        if isinstance(event, AttemptStarted):
            if event.n > 1:
                span.add_event(event.stage, {EVENT_ATTEMPT: event.n, EVENT_WHY: event.why})
        elif isinstance(event, AttemptEnded):
            if event.code != "OK":
                span.add_event(event.stage, {EVENT_ATTEMPT: event.n, STATUS: event.code})
        elif isinstance(event, Retrying):
            span.add_event(event.stage, {EVENT_ATTEMPT: event.n, EVENT_DELAY: event.delay})
        elif isinstance(event, NotRetried):
            span.add_event(event.stage, {EVENT_ATTEMPT: event.n, EVENT_REASON: event.why})
        else:
            span.add_event(event.stage)

    def _end(self, span: Span, call: Call, outcome: Outcome) -> None:
        call.span = None
        span.set_attribute(STATUS, outcome.code)
        if call.attempts:
            host, _, port = call.attempts[-1].host.endpoint.address.rpartition(":")
            span.set_attribute(PEER_ADDRESS, host.strip("[]"))
            if port.isdigit():
                span.set_attribute(PEER_PORT, int(port))
        if outcome.code != "OK":
            span.set_attribute(ERROR_TYPE, outcome.code)
            span.set_status(Status(StatusCode.ERROR, outcome.details or outcome.code))
        span.end()

    def _attributes(self, method: str) -> Attributes:
        """What is the same for every call of a method, made once."""
        known = self._methods.get(method)
        if known is None:
            if len(self._methods) >= 1024:
                self._methods.clear()
            known = self._methods[method] = {SYSTEM: "grpc", METHOD: method[1:], **self._server}
        return known

    def _find_tracer(self) -> Tracer | None:
        provider = self._tracer_provider or trace.get_tracer_provider()
        if type(provider).__module__.startswith("opentelemetry.trace"):
            return None  # the API's own stand-in: the application has no provider, or none yet
        self._tracer = provider.get_tracer(SCOPE, self._version, SCHEMA)
        return self._tracer

    def _find_meter(self) -> Histogram | None:
        provider = self._meter_provider or metrics.get_meter_provider()
        if type(provider).__module__.startswith("opentelemetry.metrics"):
            return None
        meter = provider.get_meter(SCOPE, self._version, SCHEMA)
        meter.create_observable_up_down_counter(
            HOSTS, [self._observed(_hosts)], unit="{host}", description="Hosts of the channel by connectivity"
        )
        meter.create_observable_up_down_counter(
            IN_FLIGHT, [self._observed(_in_flight)], unit="{attempt}", description="Attempts under way"
        )
        meter.create_observable_counter(
            BUDGET_REFUSALS,
            [self._observed(_refusals)],
            unit="{retry}",
            description="Retries that the retry budget did not allow",
        )
        self._duration = meter.create_histogram(
            DURATION,
            unit="s",
            description="Duration of calls, all attempts included",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        return self._duration

    def _observed(
        self, read: Callable[["Cluster"], Iterable[tuple[int, Attributes]]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Sequence[Observation]:
            return [
                Observation(value, {**self._server, **attributes})
                for channel in tuple(self._live)
                for value, attributes in read(channel.cluster)
            ]

        return observe


def _hosts(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    counts = dict.fromkeys(NAMES[:SHUTDOWN], 0)
    for host in cluster.snapshot():
        counts[host.state] += 1
    return [(count, {HOST_STATE: state}) for state, count in counts.items()]


def _in_flight(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    return [(cluster.in_flight, {})]


def _refusals(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    return [(cluster.budget.refused, {})]


def setup(
    *,
    service_name: str,
    span_exporter: "SpanExporter | None" = None,
    metric_reader: "MetricReader | None" = None,
) -> Callable[[], None]:
    """Sets global providers, for an application that has none: spans go to ``span_exporter`` in batches, metrics to
    ``metric_reader``.

    Args:
        service_name: ``service.name`` of the resource.
        span_exporter: None: no spans.
        metric_reader: None: no metrics.

    Returns:
        How to flush and end both; call it when the application ends.

    Raises:
        ConfigError: neither is given.
    """
    if span_exporter is None and metric_reader is None:
        raise ConfigError("span_exporter", None, "give a span_exporter, a metric_reader or both")
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": service_name})
    ends: list[Callable[[], object]] = []
    if span_exporter is not None:
        tracers = SdkTracerProvider(resource=resource)
        tracers.add_span_processor(BatchSpanProcessor(span_exporter))
        trace.set_tracer_provider(tracers)
        ends.append(tracers.shutdown)
    if metric_reader is not None:
        meters = SdkMeterProvider(resource=resource, metric_readers=[metric_reader])
        metrics.set_meter_provider(meters)
        ends.append(meters.shutdown)

    def shutdown() -> None:
        for end in ends:
            end()

    return shutdown
