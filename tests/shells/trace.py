"""The observations of a world, in a comparable form."""

from collections.abc import Callable, Mapping
from itertools import chain, groupby, pairwise
from operator import itemgetter
from typing import Any, final

from opentelemetry import trace as otel
from tests.shells.script import METHOD

from meshlib._core.view import CallMesh

__all__ = ["Entry", "Trace", "Tracers", "difference"]

Entry = tuple[Any, ...]
"""Moment, number of the call (-1: the channel), observation, facts."""


@final
class Trace:
    """Records observations.

    Args:
        now: virtual time.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._entries: list[Entry] = []

    def add(self, n: int, what: str, *facts: Any) -> None:
        """Record an observation of call ``n``."""
        self._entries.append((self._now(), n, what, *facts))

    def result(self, n: int, code: str, text: str, mesh: CallMesh | None) -> None:
        """Record the caller's result."""
        attempts = () if mesh is None else mesh.attempts
        self.add(n, "result", code, text, *((a.host, a.code, a.start, a.seconds, a.why, a.sent) for a in attempts))

    def canonical(self, close_at: float) -> list[Entry]:
        """Ordered by time and, in one moment, by call: events of two calls in one moment have no order. Those of one
        call have one, except attempts that get the same request. A wait of no length is dropped: in one moment the call
        may precede the control plane, or follow it. After the close only the ends count: each shell closes its channel
        in an order of its own.
        """
        before = [entry for entry in self._entries if entry[0] < close_at]
        after = [entry for entry in self._entries if entry[0] >= close_at]
        ends = sorted((close_at, *entry[1:4]) for entry in after if entry[2] in ("result", "span end"))
        ordered = sorted(before, key=itemgetter(0, 1))
        groups = ((what, list(group)) for (_, _, what), group in groupby(ordered, key=itemgetter(0, 1, 2)))
        found = [sorted(group, key=itemgetter(3)) if what == "request" else group for what, group in groups]
        pairs = pairwise([*chain.from_iterable(found), ()])
        return [*(entry for entry, following in pairs if not _waits_for_nothing(entry, following)), *ends]


def _waits_for_nothing(entry: Entry, following: Entry) -> bool:
    return entry[2:] == ("event", "pick") and following[:4] == (*entry[:2], "event", "in_flight")


def difference(name: str, one: list[Entry], other_name: str, other: list[Entry]) -> str:
    """The first difference of two traces, empty if they are equal."""
    for i, (a, b) in enumerate(zip([*one, None], [*other, None], strict=False)):
        if a != b:
            shared = "".join(f"            {entry}\n" for entry in one[max(0, i - 12) : i])
            return f"{shared}{name:>10}: {a}\n{other_name:>10}: {b}"
    return ""


class _Span(otel.NonRecordingSpan):
    """One call, as telemetry records it."""

    def __init__(self, trace: Trace, n: int) -> None:
        super().__init__(otel.INVALID_SPAN_CONTEXT)
        self._trace = trace
        self._n = n
        self._ended: Any = None

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: Any) -> None:
        if key == "rpc.response.status_code":
            self._ended = value

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        self._trace.add(self._n, "event", name, *sorted((attributes or {}).items()))

    def end(self, end_time: int | None = None) -> None:
        self._trace.add(self._n, "span end", self._ended)


class _Tracer(otel.NoOpTracer):
    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> otel.Span:
        n = int(name.removeprefix(METHOD[1:]))
        self._trace.add(n, "span")
        return _Span(self._trace, n)


class Tracers(otel.NoOpTracerProvider):
    """A provider whose spans record into ``trace``: the public way to observe a machine."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def get_tracer(self, *args: Any, **kwargs: Any) -> otel.Tracer:
        return _Tracer(self._trace)
