"""The telemetry of one channel: what happens to its calls, as spans, measurements and lines of the access log."""

import logging
import math
from functools import partial
from typing import Final, final

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import SpanKind, TracerProvider

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.metadata import Metadata
from meshlib._core.call import Call
from meshlib._core.events import AttemptEnded, CallEvent
from meshlib._core.explanation import story
from meshlib._core.kept import Kept
from meshlib._core.observability import TelemetryPolicy
from meshlib._core.status import Outcome
from meshlib._core.target import Target
from meshlib._core.version import VERSION
from meshlib.telemetry import _access_log as access_log
from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes, Observed, instruments, peer
from meshlib.telemetry._methods import Known
from meshlib.telemetry._spans import Traced, attempt_event, carried, end, event

__all__ = ["Telemetry"]

_log = logging.getLogger("meshlib")
_deferred: Final = DeferredLogger("meshlib")

LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks for a global provider."""

_CLIENT: Final = SpanKind.CLIENT  # a global, as on 3.11 a member costs 50 ns to look up


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
        policy: what is asked for beyond a span and a measurement per call.
    """

    def __init__(
        self,
        target: Target,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        policy: TelemetryPolicy | None = None,
    ) -> None:
        self._target = target.text
        self._uri = target.uri
        self._server: Attributes = {names.SERVER_ADDRESS: target.host or target.path or target.text}
        if target.port is not None:
            self._server[names.SERVER_PORT] = target.port
        self._policy = policy or TelemetryPolicy()
        self._tracer = (tracer_provider or trace.get_tracer_provider()).get_tracer(
            names.SCOPE, VERSION, schema_url=names.SCHEMA
        )
        self._instruments = instruments(meter_provider)
        self._record = self._instruments.duration.record
        self._given = tracer_provider, meter_provider
        self.listens = self._policy.access_log
        """Whether the end of every call is of interest."""
        self._traces = False
        """Whether there is a provider of traces."""
        self._found = False
        """Whether there is a provider at all."""
        self._due = -math.inf
        """Monotonic second from which on a call has something to do here."""
        self._attempts = self._policy.attempt_spans or self._policy.attempt_metrics
        self._addresses = self._policy.host_addresses
        self._told = False
        self._extra = {"meshlib.target": target.text}
        self._methods: Kept[str, Known] = Kept(partial(Known, self._server, self._uri))

    def watch(self, channel: Observed) -> None:
        """Instruments read ``channel`` from now on, for as long as it lives."""
        self._instruments.watch(channel, self._server, self._uri, hosts=self._policy.host_addresses)

    def started(self, call: Call, metadata: Metadata, now: float) -> Metadata:
        """The call begins. Returns the metadata to send: the caller's, with the context of the span, or what of a trace
        from outside is to be passed on."""
        if now < self._due and not context.get_current():
            return metadata
        try:
            if self._due <= now and not self._found:
                self._look(now)
            return self._start(call, metadata)
        except Exception:  # noqa: BLE001 - a span processor of the application's must not fail its calls
            self._failed()
            return metadata

    def ended(self, call: Call, outcome: Outcome, now: float, deferred: bool = False) -> None:
        """The call ended; told once. Need not be told of a call that succeeded at once while nobody :attr:`listens`.
        ``deferred``: this thread is not the caller's, so no log handler may run on it."""
        plain = outcome.code == "OK" and len(call.attempts) == 1
        if not plain and _log.isEnabledFor(logging.DEBUG):
            # As text: whoever keeps the record is not to keep the call.
            told = story(call.attempts, outcome.code, call.verdict)
            log = _deferred if deferred else _log
            log.debug("%s: %s", call.method, told, extra=self._extra)
        if self._policy.access_log:
            access_log.write(call, outcome, now - call.begun, self._target, deferred=deferred)
        if not self._found:
            return
        try:
            traced: Traced | None = call.span  # type: ignore[assignment]
            surroundings = None
            if traced is not None:
                surroundings = traced.context
                # A call that succeeded at once goes without the address: the SDK takes its time to check an attribute.
                end(traced.span, call, outcome, plain=plain and not self._addresses)
            self._record(now - call.begun, self._methods[call.method][outcome.code], surroundings)
            if not plain and len(call.attempts) > 1:
                self._retried(call, now, surroundings)
        except Exception:  # noqa: BLE001 - as above
            self._failed()

    def on_call_event(self, call: Call, event_: CallEvent) -> None:
        """What happens to a call between its beginning and its end becomes an event of its span."""
        traced: Traced | None = call.span  # type: ignore[assignment]
        try:
            if traced is not None:
                event(traced.span, event_)
                if self._policy.attempt_spans:
                    attempt_event(self._tracer, traced, call, event_)
            if self._policy.attempt_metrics and isinstance(event_, AttemptEnded):
                self._attempted(call, event_, None if traced is None else traced.context)
        except Exception:  # noqa: BLE001 - as above
            self._failed()

    def _look(self, now: float) -> None:
        """Looks whether there is a provider now."""
        traces, measures = self._given
        providers = (traces or trace.get_tracer_provider(), measures or metrics.get_meter_provider())
        self._traces, self._found = not _stands_in(providers[0]), not all(map(_stands_in, providers))
        if self._found:
            self.listens = True
        else:
            self._due = now + LOOK_INTERVAL

    def _start(self, call: Call, metadata: Metadata) -> Metadata:
        surroundings: Context | None = None
        if self._traces:
            known = self._methods[call.method]
            around = context.get_current()  # given, the SDK does not look for it four times
            span = self._tracer.start_span(known.name, around, _CLIENT, known.begun)
            surroundings = trace.set_span_in_context(span, around)
            if span.is_recording():
                call.span = Traced(span, surroundings)
                call.observer = self
                call.every_event = self._attempts
                if self._policy.attempt_spans:
                    return metadata  # each attempt carries its own
        if self._policy.attempt_metrics and self._found:
            call.observer = self
        return (*metadata, *carried(metadata, surroundings))

    def _retried(self, call: Call, now: float, surroundings: Context | None) -> None:
        """Measures what was tried again (gRFC A96), by how each attempt beyond the first came to be."""
        whys = [attempt.why for attempt in call.attempts[1:]]
        attributes = self._methods[call.method].tried
        made = self._instruments
        for instrument, why in ((made.retries, "retry"), (made.transparent_retries, "refused"), (made.hedges, "hedge")):
            if count := whys.count(why):
                instrument.record(count, attributes, surroundings)
        idle, until = 0.0, call.attempts[0].start
        for attempt in call.attempts:
            idle += max(0.0, attempt.start - until)
            until = max(until, now if attempt.seconds is None else attempt.start + attempt.seconds)
        made.retry_delay.record(idle, attributes, surroundings)

    def _attempted(self, call: Call, ended: AttemptEnded, surroundings: Context | None) -> None:
        attributes = {**self._methods[call.method].tried, names.GRPC_STATUS: ended.code}
        if self._addresses:
            attributes |= peer(ended.address)
        self._instruments.attempt_duration.record(ended.seconds, attributes, surroundings)

    def _failed(self) -> None:
        """Logs the first failure of a channel: what fails for one call fails for the next. May run in a locked step."""
        if not self._told:
            self._told = True
            _deferred.exception(
                "telemetry failed, and calls go on without it; check the span processors and propagators"
            )


def _stands_in(provider: object) -> bool:
    """Whether a provider is one of those that OpenTelemetry's API brings, which do nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
