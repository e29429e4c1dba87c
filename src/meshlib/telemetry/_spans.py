"""The span of a call and those of its attempts: their events and their ends."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, final

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

__all__ = ["SUPPRESSED", "Theirs", "Traced", "attempt_event", "end", "event", "with_trace"]

_deferred: Final = DeferredLogger("meshlib")


class Traced:
    """The span of one call, and the context in which it is current.

    Args:
        span: gets the events of the call.
        context: the one in which ``span`` is current.
    """

    __slots__ = ("attempts", "context", "span")
    ours = True
    attempts: dict[int, Span]
    """The spans of the attempts in flight; set only with ``attempt_spans``, as most calls have none."""

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self.context = context


@final
class Theirs(Traced):
    """A span that another instrumentation makes and ends; it only gets events."""

    __slots__ = ()
    ours = False


@final
class _Suppressed:
    ours = False
    context = None


SUPPRESSED: Final = _Suppressed()
"""The ``call.span`` of a call made under ``suppress_instrumentation()``; it has no span."""


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


def attempt_event(tracer: Tracer, traced: Traced, call: CallRecord, told: CallEvent) -> None:
    """Start or end the span of an attempt, a child of the call's (gRFC A72)."""
    if isinstance(told, AttemptStarted):
        span = tracer.start_span(
            f"Attempt.{call.method[1:]}",
            traced.context,
            SpanKind.CLIENT,
            {names.EVENT_ATTEMPT: told.n, names.EVENT_WHY: told.why, **peer(told.address)},
        )
        traced.attempts[told.n] = span
        own = given(call.metadata)
        sent = with_trace(own, trace.set_span_in_context(span, traced.context))
        call.attempts[told.n - 1].carrier = sent[len(own) :]
    elif isinstance(told, AttemptEnded):
        ended = traced.attempts.pop(told.n, None)
        if ended is not None:
            _end(ended, told.code, "", "")


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
