"""Spans and metrics of calls, by OpenTelemetry: the one file that names them.

The names are those of OpenTelemetry's RPC conventions, version 1.44 (release candidate), where they exist, and begin
with ``meshlib.`` where they do not. One CLIENT span covers a call with all its attempts; an attempt beyond the first is
an event of it. One histogram is recorded per call; everything else is a plain integer that instruments read when they
are collected. Without a provider of the application's own nothing is done at all.
"""

import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from meshlib._adapt.metadata import Metadata
from meshlib._core.call import Call
from meshlib._core.connectivity import NAMES, SHUTDOWN
from meshlib._core.errors import ConfigError
from meshlib._core.events import AttemptEnded, AttemptStarted, Broken, CallEvent, Ejected, NotRetried, Retrying
from meshlib._core.explanation import story
from meshlib._core.status import Outcome
from meshlib._core.target import Target
from meshlib._core.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter

    from meshlib._core.cluster import Cluster

__all__ = ["setup"]

_log = logging.getLogger("meshlib")

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
EVENT_BROKEN: Final = "meshlib.breaker.refused"
EVENT_EJECTED: Final = "meshlib.outlier.ejected"
EVENT_PANIC: Final = "meshlib.panic"

DURATION: Final = "rpc.client.call.duration"
DURATION_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
HOSTS: Final = "meshlib.hosts"
HOST_STATE: Final = "meshlib.host.state"
IN_FLIGHT: Final = "meshlib.attempts.in_flight"
RETRY_REFUSALS: Final = "meshlib.retry.refusals"
BREAKER_REFUSALS: Final = "meshlib.circuit_breaker.refusals"
EJECTED: Final = "meshlib.hosts.ejected"
EJECTIONS: Final = "meshlib.outlier_detection.ejections"

LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks for a global provider."""

METHODS_KEPT: Final = 4096
"""Sets of attributes remembered per channel."""

Attributes = dict[str, str | int]


class Live(Protocol):
    """The live part of a channel, as far as instruments read it."""

    @property
    def cluster(self) -> "Cluster":
        """Its machine."""
        ...


class Observed(Protocol):
    """What instruments keep of a channel, weakly."""

    @property
    def present(self) -> Live | None:
        """Its live part in this process, if it has been used in it."""
        ...


@final
class Instruments:
    """The instruments of one meter provider, shared by all channels that use it.

    Args:
        provider: None: the global one, whether it is set already or only later.
    """

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = (provider or metrics.get_meter_provider()).get_meter(SCOPE, VERSION, SCHEMA)
        self._live: weakref.WeakKeyDictionary[Observed, Attributes] = weakref.WeakKeyDictionary()
        self.duration = meter.create_histogram(
            DURATION,
            unit="s",
            description="Duration of calls, all attempts included",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        meter.create_observable_up_down_counter(
            HOSTS, [self._reader(_hosts)], unit="{host}", description="Hosts of the channel by connectivity"
        )
        meter.create_observable_up_down_counter(
            IN_FLIGHT, [self._reader(_in_flight)], unit="{attempt}", description="Attempts under way"
        )
        meter.create_observable_counter(
            RETRY_REFUSALS,
            [self._reader(_refusals)],
            unit="{retry}",
            description="Retries that the retry budget, the throttling or the circuit breaker did not allow",
        )
        meter.create_observable_counter(
            BREAKER_REFUSALS,
            [self._reader(_broken)],
            unit="{call}",
            description="Calls and attempts that the circuit breaker did not allow",
        )
        meter.create_observable_up_down_counter(
            EJECTED, [self._reader(_ejected)], unit="{host}", description="Hosts that outlier detection leaves out"
        )
        meter.create_observable_counter(
            EJECTIONS, [self._reader(_ejections)], unit="{ejection}", description="Ejections by outlier detection"
        )

    def watch(self, channel: Observed, server: Attributes) -> None:
        """Instruments read ``channel`` from now on."""
        with _lock:
            self._live[channel] = server

    def _reader(self, read: "Reader") -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Sequence[Observation]:
            with _lock:
                channels = tuple(self._live.items())
            return [
                Observation(value, {**server, **attributes})
                for channel, server in channels
                if (live := channel.present) is not None
                for value, attributes in read(live.cluster)
            ]

        return observe


_lock = threading.Lock()
_global: Instruments | None = None
_others: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()


def _instruments(provider: MeterProvider | None) -> Instruments:
    """Made once per provider: making an instrument of the same name again is an error of OpenTelemetry's."""
    global _global
    with _lock:
        if provider is None:
            _global = _global or Instruments(None)
            return _global
        known = _others.get(provider)
        if known is None:
            known = _others[provider] = Instruments(provider)
        return known


@final
class Telemetry:
    """The telemetry of one channel.

    Without a provider there is nothing to do for a call but to pass on the trace or the baggage that surrounds it. A
    global provider may be set after the channel was made, and is looked for a few times a second: asking OpenTelemetry
    for it takes longer than everything else that is done for a call here.

    Args:
        target: of the channel: ``server.address`` is what the application asked for, never the host that answered.
        tracer_provider: None: the global one.
        meter_provider: None: the global one.
    """

    def __init__(
        self,
        target: Target,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._server: Attributes = {SERVER_ADDRESS: target.host or target.path or target.text}
        if target.port is not None:
            self._server[SERVER_PORT] = target.port
        self._tracer = (tracer_provider or trace.get_tracer_provider()).get_tracer(SCOPE, VERSION, schema_url=SCHEMA)
        self._instruments = _instruments(meter_provider)
        self._record = self._instruments.duration.record
        self._given = tracer_provider, meter_provider
        self.on = False
        """Whether there is a provider of the application's."""
        self._traces = False
        """Whether it is one of traces."""
        self._due = -math.inf
        """Monotonic second from which on a call has something to do here."""
        self._told = False
        self._extra = {"meshlib.target": target.text}
        self._methods: dict[tuple[str, str], Attributes] = {}

    def watch(self, channel: Observed) -> None:
        """Instruments read ``channel`` from now on, for as long as it lives."""
        self._instruments.watch(channel, self._server)

    def started(self, call: Call, metadata: Metadata, now: float) -> Metadata:
        """The call begins. Returns the metadata to send: the caller's, with the context of the span, or what of a trace
        from outside is to be passed on."""
        if now < self._due and not context.get_current():
            return metadata
        try:
            if self._due <= now and not self.on:
                self._look(now)
            return self._start(call, metadata)
        except Exception:  # noqa: BLE001 - a span processor of the application's must not fail its calls
            self._failed()
            return metadata

    def ended(self, call: Call, outcome: Outcome, now: float) -> None:
        """The call ended; told once."""
        if (outcome.code != "OK" or len(call.attempts) > 1) and _log.isEnabledFor(logging.DEBUG):
            # As text: whoever keeps the record is not to keep the call.
            told = story(call.attempts, outcome.code, call.verdict)
            _log.debug("%s: %s", call.method, told, extra=self._extra)
        if not self.on:
            return
        try:
            if call.span is not None:
                self._end(call, outcome)
            self._record(now - call.begun, self._attributes(call.method, outcome.code))
        except Exception:  # noqa: BLE001 - as above
            self._failed()

    def _start(self, call: Call, metadata: Metadata) -> Metadata:
        carrier: dict[str, str] = {}
        if self._traces:
            span = self._tracer.start_span(call.method[1:], kind=SpanKind.CLIENT)
            if span.is_recording():
                span.set_attributes(self._attributes(call.method, ""))
                call.span = span
                call.observer = self
            propagate.inject(carrier, trace.set_span_in_context(span))
        else:
            propagate.inject(carrier)
        known = {key for key, _ in metadata}
        if "traceparent" in known:
            known.add("tracestate")  # the two belong together: ours says nothing of the caller's trace
        return (*metadata, *((key, value) for key, value in carrier.items() if key not in known))

    def _look(self, now: float) -> None:
        """Looks whether there is a provider now."""
        traces, measures = self._given
        providers = (traces or trace.get_tracer_provider(), measures or metrics.get_meter_provider())
        self._traces, self.on = not _stands_in(providers[0]), not all(map(_stands_in, providers))
        if not self.on:
            self._due = now + LOOK_INTERVAL

    def on_call_event(self, call: Call, event: CallEvent) -> None:
        """What happens to a call between its beginning and its end becomes an event of its span."""
        span: Any = call.span
        if span is None:
            return
        try:
            self._event(span, event)
        except Exception:  # noqa: BLE001 - as above
            self._failed()

    def _event(self, span: Span, event: CallEvent) -> None:
        if isinstance(event, AttemptStarted):
            if event.n > 1 or event.panic:
                told: Attributes = {EVENT_ATTEMPT: event.n, EVENT_WHY: event.why}
                if event.panic:
                    told[EVENT_PANIC] = True
                span.add_event(event.stage, told)
        elif isinstance(event, AttemptEnded):
            if event.code != "OK":
                span.add_event(event.stage, {EVENT_ATTEMPT: event.n, STATUS: event.code})
        elif isinstance(event, Retrying):
            span.add_event(event.stage, {EVENT_ATTEMPT: event.n, EVENT_DELAY: event.delay})
        elif isinstance(event, Ejected):
            span.add_event(event.stage, {EVENT_ATTEMPT: event.n, EVENT_EJECTED: event.why})
        elif isinstance(event, Broken):
            span.add_event(event.stage, {EVENT_BROKEN: event.why})
        elif isinstance(event, NotRetried):
            span.add_event(event.stage, {EVENT_ATTEMPT: event.n, EVENT_REASON: event.why})
        else:
            span.add_event(event.stage)

    def _end(self, call: Call, outcome: Outcome) -> None:
        span: Any = call.span
        call.span = None
        span.set_attribute(STATUS, outcome.code)
        if call.attempts:
            address = call.attempts[-1].host.endpoint.address
            host, _, port = address.rpartition(":")
            if port.isdigit():
                span.set_attribute(PEER_ADDRESS, host.strip("[]"))
                span.set_attribute(PEER_PORT, int(port))
            elif address.startswith("unix:"):
                span.set_attribute(PEER_ADDRESS, address.removeprefix("unix:"))
        if outcome.code != "OK":
            span.set_attribute(ERROR_TYPE, outcome.code)
            span.set_status(Status(StatusCode.ERROR, outcome.details or outcome.code))
        span.end()

    def _failed(self) -> None:
        """Said once per channel: what fails for one call fails for the next."""
        if not self._told:
            self._told = True
            _log.exception("telemetry failed, and calls go on without it; check the span processors and propagators")

    def _attributes(self, method: str, code: str) -> Attributes:
        """What is the same for every call of a method that ends with ``code``, made once; ``""``: while it lasts."""
        known = self._methods.get((method, code))
        if known is None:
            if len(self._methods) >= METHODS_KEPT:
                self._methods.clear()
            known = {SYSTEM: "grpc", METHOD: method[1:], **self._server}
            if code:
                known[STATUS] = code
                if code != "OK":
                    known[ERROR_TYPE] = code
            self._methods[method, code] = known
        return known


def _stands_in(provider: object) -> bool:
    """Whether a provider is one of those that OpenTelemetry's API brings, which do nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


Reader = Callable[["Cluster"], Iterable[tuple[int, Attributes]]]


def _hosts(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    counts = dict.fromkeys(NAMES[:SHUTDOWN], 0)
    for host in cluster.hosts:
        counts[NAMES[host.state]] += 1
    return [(count, {HOST_STATE: state}) for state, count in counts.items()]


def _in_flight(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    return [(cluster.in_flight, {})]


def _refusals(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    return [(cluster.retries.refused, {})]


def _broken(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    return [(cluster.breaker.refused, {})]


def _ejected(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    return [(sum(host.ejection is not None for host in cluster.hosts), {})]


def _ejections(cluster: "Cluster") -> Iterable[tuple[int, Attributes]]:
    return [(0 if cluster.outliers is None else cluster.outliers.enforced, {})]


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
