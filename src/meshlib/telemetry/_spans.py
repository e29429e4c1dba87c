"""The span of a call and those of its attempts: their events and their ends."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol, final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import inject
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.metadata import Metadata, given, valid
from meshlib._core.call_record import CallRecord
from meshlib._core.events import AttemptEnded, AttemptStarted, Broken, CallEvent, Ejected, NotRetried, Retrying
from meshlib._core.status import Outcome
from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes, peer

__all__ = [
    "SUPPRESSED",
    "CallSpan",
    "CallTelemetry",
    "DetailedSpan",
    "ForeignSpan",
    "Headers",
    "attempt_ended",
    "attempt_started",
    "end",
    "event",
    "with_trace",
]

Headers = tuple[tuple[str, Any], ...]
"""Metadata that the propagator adds."""

_deferred: Final = DeferredLogger("meshlib")


class Recorder(Protocol):
    """The part of a channel's telemetry that records the events of its calls."""

    def record_start(self, observer: "CallTelemetry", call: CallRecord, event_: AttemptStarted) -> Headers:
        """Record the start of an attempt. Returns the headers of its own span."""
        ...

    def record_event(self, observer: "CallTelemetry", call: CallRecord, event_: CallEvent) -> None:
        """Record any other event."""
        ...


class CallTelemetry:
    """State of telemetry for one call, which it observes; without a span here.

    Args:
        recorder: of the channel.
    """

    __slots__ = ("recorder",)
    every_event = True
    """Whether every attempt is recorded."""
    ends = False
    """Whether its span ends with the call."""
    context: Context | None = None
    """The one in which the span of the call is current; None: it has no span."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_attempt_started(self, call: CallRecord, event: AttemptStarted) -> Headers:
        """Record the start of an attempt. Returns the headers of its own span."""
        return self.recorder.record_start(self, call, event)

    def on_call_event(self, call: CallRecord, event: CallEvent) -> None:
        """Record any other event."""
        self.recorder.record_event(self, call, event)


class CallSpan(CallTelemetry):
    """The span of one call, which gets the events of a call that does not succeed at once.

    Args:
        recorder: of the channel.
        context: the one in which ``span`` is current.
        span: gets the events.
    """

    __slots__ = ("context", "span")
    every_event = False
    ends = True
    context: Context

    def __init__(self, recorder: Recorder, context: Context, span: Span) -> None:
        self.recorder = recorder  # not by way of the base class: that is another call
        self.context = context
        self.span = span


@final
class ForeignSpan(CallSpan):
    """A span that another instrumentation makes and ends; it only gets events."""

    __slots__ = ()
    ends = False


@final
class DetailedSpan(CallSpan):
    """The span of a call whose attempts are recorded, too.

    Args:
        recorder: of the channel.
        context: the one in which ``span`` is current.
        span: gets the events.
        ends: whether it ends with the call: no other instrumentation made it.
    """

    __slots__ = ("attempts", "ends")
    every_event = True

    def __init__(self, recorder: Recorder, context: Context, span: Span, ends: bool) -> None:
        super().__init__(recorder, context, span)
        self.ends = ends
        self.attempts: dict[int, Span] = {}
        """The spans of the attempts in flight; empty without ``attempt_spans``."""


@final
class _Suppressed:
    """Observer that records nothing."""

    __slots__ = ()
    ends = every_event = False
    context = None

    def on_attempt_started(self, call: CallRecord, event: AttemptStarted) -> Headers:
        """Record nothing."""
        return ()

    def on_call_event(self, call: CallRecord, event: CallEvent) -> None:
        """Record nothing."""


SUPPRESSED: Final = _Suppressed()
"""The observer of a call made under ``suppress_instrumentation()``."""


def event(span: Span, told: CallEvent) -> None:
    """Add an event to ``span``; one that has ended takes none."""
    if not span.is_recording():
        return
    if isinstance(told, AttemptStarted):
        if told.n > 1 or told.panic:
            attributes: Attributes = {names.EVENT_ATTEMPT: told.n, names.EVENT_WHY: told.why}
            if told.panic:
                attributes[names.EVENT_PANIC] = True
            span.add_event(told.stage, attributes)
    elif isinstance(told, AttemptEnded):
        if told.code != "OK":
            span.add_event(told.stage, {names.EVENT_ATTEMPT: told.n, names.STATUS: told.code})
    elif isinstance(told, Retrying):
        span.add_event(told.stage, {names.EVENT_ATTEMPT: told.n, names.EVENT_DELAY: told.delay})
    elif isinstance(told, Ejected):
        span.add_event(told.stage, {names.EVENT_ATTEMPT: told.n, names.EVENT_EJECTED: told.why})
    elif isinstance(told, Broken):
        span.add_event(told.stage, {names.EVENT_BROKEN: told.why})
    elif isinstance(told, NotRetried):
        span.add_event(told.stage, {names.EVENT_ATTEMPT: told.n, names.EVENT_REASON: told.why})
    else:
        span.add_event(told.stage)


def attempt_started(tracer: Tracer, parent: DetailedSpan, call: CallRecord, started: AttemptStarted) -> Headers:
    """Start the span of an attempt, a child of the call's (gRFC A72). Returns its headers."""
    span = tracer.start_span(
        f"Attempt.{call.method[1:]}",
        parent.context,
        SpanKind.CLIENT,
        {names.EVENT_ATTEMPT: started.n, names.EVENT_WHY: started.why, **peer(started.address)},
    )
    parent.attempts[started.n] = span
    own = given(call.metadata)
    sent = with_trace(own, trace.set_span_in_context(span, parent.context))
    return sent[len(own) :]


def attempt_ended(parent: DetailedSpan, ended: AttemptEnded) -> None:
    """End the span of an attempt."""
    span = parent.attempts.pop(ended.n, None)
    if span is not None:
        _end(span, ended.code, "", "")


def end(span: Span, call: CallRecord, outcome: Outcome) -> None:
    """End the span of a call. The spans of attempts in flight end with their attempts."""
    _end(span, outcome.code, outcome.details, call.attempts[-1].host.endpoint.address if call.attempts else "")


_are_usual: Final = frozenset({"traceparent", "tracestate", "baggage"}).issuperset
_is_text: Final = re.compile(r"[ -~]*").fullmatch
_join: Final = "".join
_left_out: Final[set[object]] = set()


def with_trace(metadata: Metadata, surroundings: Context | None) -> Metadata:
    """Return ``metadata``, followed by the propagator's headers that it does not contain.

    HTTP headers may contain capitals (AWS X-Ray's does), metadata must not.
    """
    carrier: dict[str, Any] = {}
    inject(carrier, surroundings)
    if not carrier:
        return metadata
    pairs: Iterable[tuple[str, Any]] = carrier.items()
    if not (_are_usual(carrier) and _is_text(_join(carrier.values()))):
        pairs = _sendable(pairs)
    if not metadata:
        return tuple(pairs)
    known = {key for key, _ in metadata}
    if "traceparent" in known:
        known.add("tracestate")  # they are a pair: ours is not of the caller's trace
    return (*metadata, *[pair for pair in pairs if pair[0] not in known])


def _sendable(carrier: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """Return the headers in lower case, without those for which gRPC would refuse the call."""
    for key, value in carrier:
        try:
            pair = (key.lower(), value)
            sendable = valid((pair,))
        except (AttributeError, TypeError):
            sendable = False
        if sendable:
            yield pair
        elif key not in _left_out and len(_left_out) < 100:
            _left_out.add(key)
            _deferred.warning("propagator: header %r is not valid gRPC metadata; calls are sent without it", key)


def _end(span: Span, code: str, details: str, address: str) -> None:
    try:
        attributes = {**peer(address), names.STATUS: code}
        if code != "OK":
            attributes[names.ERROR_TYPE] = code
            span.set_status(Status(StatusCode.ERROR, details or code))
        span.set_attributes(attributes)
    finally:
        span.end()
