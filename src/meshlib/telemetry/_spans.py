"""The span of a call and those of its attempts: their events and their ends."""

from collections.abc import Sequence
from typing import Any, final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from meshlib._adapt.metadata import Metadata
from meshlib._core.call import Call
from meshlib._core.events import AttemptEnded, AttemptStarted, Broken, CallEvent, Ejected, NotRetried, Retrying
from meshlib._core.status import Outcome
from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes, peer

__all__ = ["Traced", "attempt_event", "carried", "end", "event"]


@final
class Traced:
    """The span of one call, and the context in which it is the current one."""

    __slots__ = ("attempts", "context", "span")

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self.context = context
        self.attempts: dict[int, Span] | None = None
        """Those of its attempts that are under way, if they have any."""


def event(span: Span, told: CallEvent) -> None:
    """What happened, as an event of ``span``; one that has ended takes none."""
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


def attempt_event(tracer: Tracer, traced: Traced, call: Call, told: CallEvent) -> None:
    """An attempt begins or ends, and with it a span of its own, below that of the call (gRFC A72)."""
    if isinstance(told, AttemptStarted):
        span = tracer.start_span(
            f"Attempt.{call.method[1:]}",
            traced.context,
            SpanKind.CLIENT,
            {names.EVENT_ATTEMPT: told.n, names.EVENT_WHY: told.why, **peer(told.address)},
        )
        traced.attempts = traced.attempts or {}
        traced.attempts[told.n] = span
        call.attempts[told.n - 1].carrier = carried(call.metadata, trace.set_span_in_context(span, traced.context))
    elif isinstance(told, AttemptEnded) and traced.attempts is not None:
        ended = traced.attempts.pop(told.n, None)
        if ended is not None:
            _end(ended, told.code, "", "")


def end(span: Span, call: Call, outcome: Outcome, *, plain: bool) -> None:
    """The call ended; those of its attempts that are under way end when they do. ``plain``: there is nothing to tell
    but that it succeeded, and not where."""
    if not plain:
        _end(span, outcome.code, outcome.details, call.attempts[-1].host.endpoint.address if call.attempts else "")
        return
    span.set_attribute(names.STATUS, "OK")  # for one, cheaper than `set_attributes`
    span.end()


def carried(metadata: Sequence[tuple[str, Any]], surroundings: Context | None) -> Metadata:
    """What tells a server of the trace, without what the caller tells it himself."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, surroundings)
    if not metadata:
        return tuple(carrier.items())
    known = {key for key, _ in metadata}
    if "traceparent" in known:
        known.add("tracestate")  # the two belong together: ours says nothing of the caller's trace
    return tuple((key, value) for key, value in carrier.items() if key not in known)


def _end(span: Span, code: str, details: str, address: str) -> None:
    attributes = {**peer(address), names.STATUS: code}
    if code != "OK":
        attributes[names.ERROR_TYPE] = code
        span.set_status(Status(StatusCode.ERROR, details or code))
    span.set_attributes(attributes)
    span.end()
