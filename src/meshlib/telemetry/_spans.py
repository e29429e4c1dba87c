"""The span of a call and those of its attempts: their events and their ends."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.metadata import Metadata, valid
from meshlib._core.call import Call
from meshlib._core.events import AttemptEnded, AttemptStarted, Broken, CallEvent, Ejected, NotRetried, Retrying
from meshlib._core.status import Outcome
from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes, peer

__all__ = ["SUPPRESSED", "Theirs", "Traced", "attempt_event", "carried", "end", "event"]

_deferred: Final = DeferredLogger("meshlib")

SUPPRESSED: Final = object()
"""Stands in a call for its span: the call was made under ``suppress_instrumentation()``."""


class Traced:
    """The span of one call, and the context in which it is the current one.

    Args:
        span: gets the events of the call.
        context: the one in which ``span`` is current.
    """

    __slots__ = ("attempts", "context", "span")
    ours = True

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self.context = context
        self.attempts: dict[int, Span] | None = None
        """Those of its attempts that are under way, if they have any."""


@final
class Theirs(Traced):
    """A span that another instrumentation made for the call, and ends; it gets the events alone."""

    __slots__ = ()
    ours = False


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


_USUAL: Final = frozenset({"traceparent", "tracestate", "baggage"})
_TEXT: Final = re.compile(r"[ -~]*").fullmatch
_left_out: Final[set[object]] = set()


def carried(metadata: Sequence[tuple[str, Any]], surroundings: Context | None) -> Metadata:
    """The propagator's headers as metadata, without those that the caller sets.

    Headers of HTTP may have capitals (AWS X-Ray's has), metadata may not.
    """
    carrier: dict[str, Any] = {}
    propagate.inject(carrier, surroundings)
    if not carrier:
        return ()
    pairs = tuple(carrier.items())
    if not (_USUAL.issuperset(carrier) and _TEXT("".join(carrier.values()))):
        pairs = tuple(_sendable(pairs))
    if not metadata:
        return pairs
    known = {key for key, _ in metadata}
    if "traceparent" in known:
        known.add("tracestate")  # the two belong together: ours says nothing of the caller's trace
    return tuple(pair for pair in pairs if pair[0] not in known)


def _sendable(carrier: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """The headers in lower case, without those that gRPC would refuse, and the call with them."""
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
            _deferred.warning("the propagator's header %r is not valid gRPC metadata: calls are sent without it", key)


def _end(span: Span, code: str, details: str, address: str) -> None:
    try:
        attributes = {**peer(address), names.STATUS: code}
        if code != "OK":
            attributes[names.ERROR_TYPE] = code
            span.set_status(Status(StatusCode.ERROR, details or code))
        span.set_attributes(attributes)
    finally:
        span.end()
