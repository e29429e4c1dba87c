"""Who is measured by ``calls.py``: grpc's own channels, an Envoy sidecar, what people write by hand, and meshlib."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import tenacity
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

__all__ = ["BARE", "MESH", "NAMES", "Variant", "variants"]

BARE = "bare"
MESH = "meshlib, all policies"
NAMES = {
    BARE: "one grpcio channel to one server, default arguments",
    "bare, our arguments": "the same with the arguments of meshlib's subchannels",
    "three bare in turn": "three such channels, called in turn: what a channel per host costs by itself",
    "grpc round_robin": "one grpcio channel to three servers",
    "grpc round_robin, retryPolicy": "the same, with a retry policy of the service config",
    "bare + tenacity": "a grpcio channel, each call inside tenacity's retry",
    "bare + opentelemetry": "a grpcio channel with opentelemetry-instrumentation-grpc: spans, which has no metrics",
    "Envoy sidecar": "a grpcio channel to an Envoy with one worker, ROUND_ROBIN and retries; its own CPU counted",
    "meshlib, policies off": "three servers, no retries, no outlier detection",
    MESH: "three servers, the defaults, a time-out and a circuit breaker",
    "meshlib, enable_retries=0": "the same, with C-core's own transparent retries turned off by option",
    "meshlib, spans": "all policies, every call has a span",
    "meshlib, spans and metrics": "all policies, every call has a span and is measured",
}
"""Each variant, and what it is."""

RETRIES = (
    '{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.025s","maxBackoff":"0.25s",'
    '"backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}'
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One of them.

    Args:
        name: a key of ``NAMES``.
        channels: to be called in turn; one but for one variant.
        wrap: what is put around a multicallable.
        sidecar: whose CPU counts as well.
    """

    name: str
    channels: tuple[Any, ...]
    wrap: Callable[[Any], Any] | None = None
    sidecar: Sidecar | None = None

    def calls(self, kind: str, method: str) -> Callable[..., Any]:
        """What makes a call of ``kind`` (``unary_unary``)."""
        made = [getattr(channel, kind)(method) for channel in self.channels]
        if self.wrap is not None:
            made = [self.wrap(call) for call in made]
        if len(made) == 1:
            only: Callable[..., Any] = made[0]
            return only
        turn = itertools.cycle(made)

        def in_turn(*arguments: Any, **options: Any) -> Any:
            return next(turn)(*arguments, **options)

        return in_turn


class Sink(SpanExporter):
    """Takes spans and does nothing."""

    def export(self, spans: object) -> SpanExportResult:
        """All of them."""
        return SpanExportResult.SUCCESS


def variants(shell: str, addresses: list[str], stack: ExitStack) -> list[Variant]:
    """All that there are for ``shell`` (``sync``, ``aio``), opened; ``stack`` closes what is not asyncio's."""
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

    def mesh(**arguments: Any) -> Any:
        make = meshlib.channel if shell == "sync" else meshlib.aio.channel
        return make(static, **arguments)

    policies = {"timeout": 30.0, "circuit_breaker": breaker}
    off = {"retry": None, "retry_budget": None, "outlier_detection": None}
    found = [
        Variant(BARE, (plain(one),)),
        Variant("bare, our arguments", (plain(one, *DEFAULTS),)),
        Variant("three bare in turn", tuple(plain(f"ipv4:{address}") for address in addresses)),
        Variant("grpc round_robin", (plain(all_, round_robin),)),
        Variant("grpc round_robin, retryPolicy", (plain(all_, round_robin, ("grpc.service_config", RETRIES)),)),
        Variant("meshlib, policies off", (mesh(**off),)),
        Variant(MESH, (mesh(**policies),)),
        Variant("meshlib, enable_retries=0", (mesh(**policies, options=[("grpc.enable_retries", 0)]),)),
        Variant("meshlib, spans", (mesh(**policies, tracer_provider=tracers),)),
        Variant("meshlib, spans and metrics", (mesh(**policies, tracer_provider=tracers, meter_provider=meters),)),
    ]
    if shell == "sync":
        traced = otel_intercept(plain(one), client_interceptor(tracer_provider=tracers))
        found += [
            Variant("bare + tenacity", (plain(one),), wrap=_with_tenacity),
            Variant("bare + opentelemetry", (traced,)),
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


def _with_tenacity(call: Callable[..., Any]) -> Callable[..., Any]:
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(0.025, max=0.25),
        retry=tenacity.retry_if_exception(_unavailable),
        reraise=True,
    )
    return lambda *arguments, **options: retrying(call, *arguments, **options)


def _unavailable(error: BaseException) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
