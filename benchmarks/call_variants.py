"""Variants measured by ``calls.py``: grpc's own channels, an Envoy sidecar, hand-written code, and meshlib."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
from by_hand import Loop, in_turn, traced, with_tenacity
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel as otel_intercept
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from sidecar import Sidecar, binary, sidecar

import meshlib
import meshlib.aio
from meshlib._adapt.options import DEFAULTS

__all__ = ["BARE", "BY_HAND", "MESH", "NAMES", "THREE_BY_HAND", "TRACED", "Variant", "variants"]

BARE = "bare"
BY_HAND = "bare + span and metric by hand"
THREE_BY_HAND = "three + span and metric by hand"
MESH = "meshlib, all policies"
TRACED = "meshlib, spans and metrics"
NAMES = {
    BARE: "one grpcio channel to one server, default arguments",
    "bare, our arguments": "one grpcio channel to one server, with the arguments of meshlib's subchannels",
    "three bare in turn": "three grpcio channels, default arguments, called in turn: the cost of several channels",
    "grpc round_robin": "one grpcio channel to three servers",
    "grpc round_robin, retryPolicy": "one grpcio channel to three servers, with a retry policy of the service config",
    "loop by hand": "three grpcio channels, our arguments, a lock, a turn, calls in flight counted, time-out, retry",
    "bare + tenacity": "a grpcio channel, each call inside tenacity's retry",
    "bare + opentelemetry": "a grpcio channel with opentelemetry-instrumentation-grpc: spans, which has no metrics",
    "bare + span by hand": "a grpcio channel, each call with one span, attributes as ours, written for speed",
    BY_HAND: "a grpcio channel, each call with one span and one measurement, attributes as ours, written for speed",
    THREE_BY_HAND: "three grpcio channels, default arguments, called in turn, traced and measured in the same way",
    "Envoy sidecar": "a grpcio channel to an Envoy with one worker, ROUND_ROBIN and retries; its own CPU counted",
    "meshlib, policies off": "three servers, no retries, no outlier detection",
    MESH: "three servers, the defaults, a time-out and a circuit breaker",
    "meshlib, enable_retries=0": "the same, with C-core's own transparent retries turned off by option",
    "meshlib, spans": "all policies, every call has a span",
    TRACED: "all policies, every call has a span and is measured",
}
"""Each variant and its description."""

RETRIES = (
    '{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.025s","maxBackoff":"0.25s",'
    '"backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}'
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A measured variant.

    Args:
        name: a key of ``NAMES``.
        channels: channels to call.
        wrap: wrapper around a multicallable.
        over: combines the multicallables of all channels into one.
        sidecar: its CPU counts as well.
    """

    name: str
    channels: tuple[Any, ...]
    wrap: Callable[[Any], Any] | None = None
    over: Callable[[list[Any]], Callable[..., Any]] = in_turn
    sidecar: Sidecar | None = None

    def calls(self, kind: str, method: str, *codecs: Any, with_call: bool = False) -> Callable[..., Any]:
        """Return the multicallable of ``kind`` (``unary_unary``), with a stub's other arguments for the method."""
        made = [getattr(channel, kind)(method, *codecs) for channel in self.channels]
        if with_call:
            made = [call.with_call for call in made]
        if self.wrap is not None:
            made = [self.wrap(call) for call in made]
        return self.over(made)


class Sink(SpanExporter):
    """Discards spans."""

    def export(self, spans: object) -> SpanExportResult:
        """Discard the spans."""
        return SpanExportResult.SUCCESS


def variants(shell: str, addresses: list[str], stack: ExitStack) -> list[Variant]:
    """Open all variants for ``shell`` (``sync``, ``aio``); ``stack`` closes those that are not asyncio's."""
    own = ("grpc.use_local_subchannel_pool", 1)
    one, all_ = f"ipv4:{addresses[0]}", "ipv4:" + ",".join(addresses)
    static = "static:///" + ",".join(addresses)
    round_robin = ("grpc.lb_policy_name", "round_robin")
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(Sink()))
    meters = MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False)
    stack.callback(tracers.shutdown)
    stack.callback(meters.shutdown)
    breaker = meshlib.CircuitBreaker()

    def plain(target: str, *options: tuple[str, Any]) -> Any:
        make = grpc.insecure_channel if shell == "sync" else grpc.aio.insecure_channel
        return make(target, options=[*options, own])

    def apart(*options: tuple[str, Any]) -> tuple[Any, ...]:
        return tuple(plain(f"ipv4:{address}", *options) for address in addresses)

    def mesh(**arguments: Any) -> Any:
        make = meshlib.channel if shell == "sync" else meshlib.aio.channel
        return make(static, **arguments)

    policies = {"timeout": 30.0, "circuit_breaker": breaker}
    off = {"retry": None, "retry_budget": None, "outlier_detection": None}
    found = [
        Variant(BARE, (plain(one),)),
        Variant("bare, our arguments", (plain(one, *DEFAULTS),)),
        Variant("three bare in turn", apart()),
        Variant("grpc round_robin", (plain(all_, round_robin),)),
        Variant("grpc round_robin, retryPolicy", (plain(all_, round_robin, ("grpc.service_config", RETRIES)),)),
        Variant("meshlib, policies off", (mesh(**off),)),
        Variant(MESH, (mesh(**policies),)),
        Variant("meshlib, enable_retries=0", (mesh(**policies, options=[("grpc.enable_retries", 0)]),)),
        Variant("meshlib, spans", (mesh(**policies, tracer_provider=tracers),)),
        Variant(TRACED, (mesh(**policies, tracer_provider=tracers, meter_provider=meters),)),
    ]
    if shell == "sync":
        instrumented = otel_intercept(plain(one), client_interceptor(tracer_provider=tracers))
        tracer, duration = tracers.get_tracer("by hand"), meters.get_meter("by hand").create_histogram("by.hand", "s")
        by_hand = partial(traced, tracer=tracer, duration=duration)
        found += [
            Variant("loop by hand", apart(*DEFAULTS), over=Loop),
            Variant("bare + tenacity", (plain(one),), wrap=with_tenacity),
            Variant("bare + opentelemetry", (instrumented,)),
            Variant("bare + span by hand", (plain(one),), wrap=partial(traced, tracer=tracer)),
            Variant(BY_HAND, (plain(one),), wrap=by_hand),
            Variant(THREE_BY_HAND, apart(), wrap=by_hand),
        ]
    if binary() is not None:
        retry = {"retry_policy": {"retry_on": "unavailable,connect-failure,reset", "num_retries": 2}}
        running = stack.enter_context(sidecar(addresses, route=retry, cluster={"lb_policy": "ROUND_ROBIN"}))
        found.append(Variant("Envoy sidecar", (plain(running.target),), sidecar=running))
    if shell == "sync":
        for variant in found:
            for channel in variant.channels:
                stack.callback(getattr(channel, "close", lambda: None))
    return sorted(found, key=lambda variant: list(NAMES).index(variant.name))
