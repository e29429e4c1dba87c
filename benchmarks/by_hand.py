"""Hand-written code around a stub: retries by tenacity, a loop over the hosts, a span and a measurement."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import tenacity
from opentelemetry import context, propagate, trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import SpanKind, Tracer

from meshlib.testing import echo

__all__ = ["Loop", "in_turn", "traced", "with_tenacity"]

Calls = list[Callable[..., Any]]

NAME = echo.UNARY[1:]
ABOUT = {"rpc.system.name": "grpc", "rpc.method": NAME, "server.address": "svc-a"}
"""The attributes of meshlib's span."""
MEASURED = {code.name: {**ABOUT, "rpc.response.status_code": code.name} for code in grpc.StatusCode}


def in_turn(calls: Calls) -> Callable[..., Any]:
    """Call each in turn, and nothing else."""
    if len(calls) == 1:
        return calls[0]
    turn = itertools.cycle(calls)

    def call(*arguments: Any, **options: Any) -> Any:
        return next(turn)(*arguments, **options)

    return call


class Loop:
    """A hand-written loop over three channels: each in turn, its number of calls, one retry on another.

    It checks no connection, has no deadline for both attempts together, no backoff, no budget, and no ejection.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._lock = threading.Lock()
        self._turn = 0
        self._in_flight = [0] * len(calls)

    def __call__(self, request: Any, *, timeout: float = 30.0, metadata: Any = None) -> Any:
        """Return the answer of the first host, or of the second if the first is unavailable."""
        try:
            return self._attempt(request, timeout, metadata)
        except grpc.RpcError as error:
            if not unavailable(error):
                raise
        return self._attempt(request, timeout, metadata)

    def _attempt(self, request: Any, timeout: float, metadata: Any) -> Any:
        with self._lock:
            self._turn = turn = (self._turn + 1) % len(self._calls)
            self._in_flight[turn] += 1
        try:
            return self._calls[turn](request, timeout=timeout, metadata=metadata)
        finally:
            with self._lock:
                self._in_flight[turn] -= 1


def with_tenacity(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``call`` in the retries of meshlib's default policy."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(0.025, max=0.25),
        retry=tenacity.retry_if_exception(unavailable),
        reraise=True,
    )
    return lambda *arguments, **options: retrying(call, *arguments, **options)


def traced(call: Callable[..., Any], tracer: Tracer, duration: Histogram | None = None) -> Callable[..., Any]:
    """Wrap ``call`` in one span, and one measurement if there is a histogram.

    Objects are created in advance, and OpenTelemetry does not search for known values."""
    kind = SpanKind.CLIENT

    def made(request: Any, *, metadata: Any = None) -> Any:
        began = time.perf_counter()
        around = context.get_current()
        span = tracer.start_span(NAME, around, kind, ABOUT)
        within = trace.set_span_in_context(span, around)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, within)
        code = "OK"
        try:
            return call(request, metadata=(*(metadata or ()), *carrier.items()))
        except grpc.RpcError as error:
            code = error.code().name
            raise
        finally:
            span.set_attribute("rpc.response.status_code", code)
            span.end()
            if duration is not None:
                duration.record(time.perf_counter() - began, MEASURED[code], within)

    return made


def unavailable(error: BaseException) -> bool:
    """Return whether a retry may succeed."""
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
