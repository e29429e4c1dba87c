"""The telemetry of one channel: spans, measurements and access log lines of its calls."""

import logging
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, final

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context, get_current
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer, TracerProvider, set_span_in_context

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.metadata import Metadata
from meshlib._core.bounded_cache import BoundedCache
from meshlib._core.call_record import CallRecord
from meshlib._core.events import AttemptEnded, AttemptStarted, CallEvent
from meshlib._core.explanation import story
from meshlib._core.observability import TelemetryPolicy
from meshlib._core.status import Outcome
from meshlib._core.target import Target
from meshlib._core.version import VERSION
from meshlib.telemetry import _access_log as access_log
from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes, Instruments, Observed, instruments, peer
from meshlib.telemetry._interrupts import interrupted
from meshlib.telemetry._methods import Known
from meshlib.telemetry._spans import (
    SUPPRESSED,
    CallSpan,
    CallTelemetry,
    DetailedSpan,
    ForeignSpan,
    Headers,
    attempt_ended,
    attempt_started,
    end,
    event,
    with_trace,
)

__all__ = ["Telemetry"]

_log = logging.getLogger("meshlib")
_deferred: Final = DeferredLogger("meshlib")

LOOK_INTERVAL: Final = 0.1
"""Seconds between two checks for a global provider."""

_CLIENT: Final = SpanKind.CLIENT  # a global, as on 3.11 a member costs 50 ns to look up
_STATUS: Final = names.STATUS

_SUPPRESS: Final = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
_SUPPRESS_PLAIN: Final = "suppress_instrumentation"
"""Both are set by ``suppress_instrumentation()``; exporters of the SDK set only the first."""

# One C call for both keys. A present key may be False, so its value must be read, too.
_has_no_suppression: Final = frozenset({_SUPPRESS, _SUPPRESS_PLAIN}).isdisjoint

_CONTRIB: Final = "opentelemetry.instrumentation.grpc"
_NO_METERS: Final = NoOpMeterProvider()


@final
class Telemetry:
    """The telemetry of one channel.

    Without a provider, a call only passes on the surrounding trace or baggage. A global provider may be set after the
    channel was made, so it is looked up a few times a second: a lookup takes longer than all other telemetry
    of a call.

    Args:
        target: of the channel: ``server.address`` is the application's target, never the host that answered.
        tracer_provider: None: the global one.
        meter_provider: None: the global one.
        policy: telemetry beyond a span and a measurement per call.
        later: called with an exception that a signal handler raised during a step of the call, to raise it in a
            separate callback of the event loop; None: it is raised at once.
    """

    def __init__(
        self,
        target: Target,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        policy: TelemetryPolicy | None = None,
        later: Callable[[Exception], None] | None = None,
    ) -> None:
        self._later = later
        self._target = target.text
        self._uri = target.uri
        self._server: Attributes = {names.SERVER_ADDRESS: target.host or target.path or target.text}
        if target.port is not None:
            self._server[names.SERVER_PORT] = target.port
        self._policy = policy or TelemetryPolicy()
        self._told = False
        self._tracer = self._get_tracer(tracer_provider)
        self._instruments = self._get_instruments(meter_provider)
        self._record = self._instruments.duration.record
        self._given = tracer_provider, meter_provider
        self.listens = self._policy.access_log
        """Whether the end of every call is needed."""
        self._traces = False
        """Whether there is a tracer provider."""
        self._measures = False
        """Whether there is a meter provider."""
        self._found = False
        """Whether there is any provider."""
        self._look_at = -math.inf
        """Monotonic second of the next check for missing providers."""
        self._due = -math.inf
        """Monotonic second from which a call has work to do here."""
        self._attempts = self._policy.attempt_spans or self._policy.attempt_metrics
        self._addresses = self._policy.host_addresses
        self._access_log = self._policy.access_log
        self._extra = {"meshlib.target": target.text}
        self._methods: BoundedCache[str, Known] = BoundedCache(partial(Known, self._server, self._uri))

    def watch(self, channel: Observed) -> None:
        """Make instruments read ``channel`` from now on, while it lives."""
        self._instruments.watch(channel, self._server, self._uri, hosts=self._policy.host_addresses)

    def call_started(self, call: CallRecord, metadata: Metadata, now: float) -> Metadata:
        """Start the span of a call. Returns the metadata to send: the caller's, and the headers of the propagator for
        that span, or for the current context if there is no tracer provider."""
        if now < self._due and not get_current():
            return metadata
        try:
            if self._look_at <= now:
                self._look(now)
            around = get_current()  # passed on: else the SDK looks it up four times
            if around and not _has_no_suppression(around) and (around.get(_SUPPRESS) or around.get(_SUPPRESS_PLAIN)):
                call.observe(SUPPRESSED)
                return metadata
            if not self._traces:
                surroundings = None
                if self._attempts:
                    return self._in_detail(call, metadata, None, None)
            elif around and _CONTRIB in sys.modules and (span := _of_contrib(around, call.method)) is not None:
                surroundings = around
                if self._attempts:
                    return self._in_detail(call, metadata, span, around, ends=False)
                call.observe(ForeignSpan(self, around, span))
            else:
                known = self._methods[call.method]
                span = self._tracer.start_span(known.name, around, _CLIENT, known.begun)
                surroundings = set_span_in_context(span, around)
                if self._attempts:
                    return self._in_detail(call, metadata, span, surroundings)
                if span.is_recording():
                    call.observe(CallSpan(self, surroundings, span))
            return with_trace(metadata, surroundings)
        except Exception as error:  # noqa: BLE001 - the application's plug-ins must not fail its calls
            self._failed(error, raises=True)
            return metadata

    def call_ended(self, call: CallRecord, outcome: Outcome, now: float, deferred: bool = False) -> None:
        """Record the end of a call, once. Optional for a call that succeeded at once if not :attr:`listens`.
        ``deferred``: this thread is not the caller's, so no log handler may run on it."""
        plain = outcome.code == "OK" and len(call.attempts) == 1
        if not plain or self._access_log:
            self._write(call, outcome, now, plain=plain, deferred=deferred)
        observer: Any = call.observer
        if observer is None:
            if not self._found:
                return
            surroundings = None
        else:
            surroundings = observer.context
            try:
                if not observer.ends:
                    if observer is SUPPRESSED:
                        return
                elif not plain or self._addresses:
                    end(observer.span, call, outcome)
                else:
                    # Without the address, and without `set_attributes`: the SDK is slow to check attributes.
                    span = observer.span
                    span.set_attribute(_STATUS, "OK")
                    span.end()
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(error)
        try:
            self._record(now - call.begun, self._methods[call.method][outcome.code], surroundings)
            if not plain and len(call.attempts) > 1:
                self._retried(call, now, surroundings)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def ends_span(self, call: CallRecord) -> bool:
        """Whether :meth:`call_ended` may run the application's span processors, which may block."""
        observer = call.observer
        return isinstance(observer, CallSpan) and observer.ends

    def record_start(self, observer: CallTelemetry, call: CallRecord, event_: AttemptStarted) -> Headers:
        """Record the start of an attempt. Returns the headers of its own span."""
        try:
            if isinstance(observer, CallSpan):
                event(observer.span, event_)
                if isinstance(observer, DetailedSpan) and self._policy.attempt_spans:
                    return attempt_started(self._tracer, observer, call, event_)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)
        return ()

    def record_event(self, observer: CallTelemetry, call: CallRecord, event_: CallEvent) -> None:
        """Add what happens during a call to its span, as an event."""
        try:
            if isinstance(observer, CallSpan):
                event(observer.span, event_)
                if isinstance(observer, DetailedSpan) and isinstance(event_, AttemptEnded):
                    attempt_ended(observer, event_)
            if self._policy.attempt_metrics and isinstance(event_, AttemptEnded):
                self._attempted(call, event_, observer.context)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _in_detail(
        self,
        call: CallRecord,
        metadata: Metadata,
        span: Span | None,
        surroundings: Context | None,
        ends: bool = True,
    ) -> Metadata:
        """Observe a call and each of its attempts. Returns the metadata to send with all of them."""
        if span is not None and surroundings is not None and span.is_recording():
            call.observe(DetailedSpan(self, surroundings, span, ends))
            if self._policy.attempt_spans:
                return metadata  # each attempt carries its own
        elif self._policy.attempt_metrics and self._found:
            call.observe(CallTelemetry(self))
        return with_trace(metadata, surroundings)

    def _look(self, now: float) -> None:
        """Look up the missing providers."""
        self._look_at = now + LOOK_INTERVAL  # first: the next call must not retry one that raises
        traces, measures = self._given
        self._traces = self._traces or not _stands_in(traces or trace.get_tracer_provider())
        self._measures = self._measures or not _stands_in(measures or metrics.get_meter_provider())
        if self._traces or self._measures:
            self._found = self.listens = True
            self._due = -math.inf
        else:
            self._due = self._look_at
        if self._traces and self._measures:
            self._look_at = math.inf

    def _retried(self, call: CallRecord, now: float, surroundings: Context | None) -> None:
        """Measure retries and hedges (gRFC A96), by the cause of each attempt beyond the first."""
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

    def _attempted(self, call: CallRecord, ended: AttemptEnded, surroundings: Context | None) -> None:
        attributes = {**self._methods[call.method].tried, names.GRPC_STATUS: ended.code}
        if self._addresses:
            attributes |= peer(ended.address)
        self._instruments.attempt_duration.record(ended.seconds, attributes, surroundings)

    def _get_tracer(self, provider: TracerProvider | None) -> Tracer:
        try:
            return (provider or trace.get_tracer_provider()).get_tracer(names.SCOPE, VERSION, schema_url=names.SCHEMA)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error, raises=True)
            return NoOpTracer()

    def _get_instruments(self, provider: MeterProvider | None) -> Instruments:
        try:
            return instruments(provider)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error, raises=True)
            return instruments(_NO_METERS)

    def _write(self, call: CallRecord, outcome: Outcome, now: float, *, plain: bool, deferred: bool) -> None:
        """Log the end of a call; if an application's filter or handler raises, the call does not fail."""
        try:
            if not plain and _log.isEnabledFor(logging.DEBUG):
                # As text: a kept record must not keep the call alive.
                told = story(call.attempts, outcome.code, call.verdict)
                log = _deferred if deferred else _log
                log.debug("%s: %s", call.method, told, extra=self._extra)
            if self._access_log and call.observer is not SUPPRESSED:
                access_log.write(call, outcome, now - call.begun, self._target, deferred=deferred)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _failed(self, error: Exception, *, raises: bool = False) -> None:
        """Log only the first failure of the application's telemetry: the next calls fail alike. May run in a locked
        step.

        Raises:
            Exception: ``error``, if a signal handler raised it: it is not telemetry's, and meant for the caller.
        """
        if interrupted(error):
            if raises or self._later is None:
                raise error
            self._later(error)
            return
        if not self._told:
            self._told = True
            _deferred.error(
                "telemetry failed: calls continue without it; check the providers, samplers, span processors and "
                "propagators",
                exc_info=error,
            )


def _stands_in(provider: object) -> bool:
    """Whether a provider is one of the OpenTelemetry API's own, which do nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def _of_contrib(around: Context, method: str) -> Span | None:
    """Return the current span, if opentelemetry-instrumentation-grpc made it for this call: it wraps grpc's factories,
    and meshlib's in their place."""
    span: Any = trace.get_current_span(around)
    scope = getattr(span, "instrumentation_scope", None)
    if getattr(scope, "name", None) != _CONTRIB or getattr(span, "kind", None) is not _CLIENT:
        return None
    return span if span.is_recording() and getattr(span, "name", None) == method else None
