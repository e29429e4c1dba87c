"""What a call costs beside its peers: CPU of the calling process per call, as ratios within one interleaved run.

usage: python benchmarks/calls.py [ROUNDS]

Three servers in processes of their own. Each round runs a batch of every variant, so that what the machine does at the
moment falls on all of them alike. Printed: the median of the rounds, and the median of the ratios to the bare channel
of the same round with the interval that holds the middle half of them.
"""

import asyncio
import platform
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import grpc
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel as otel_intercept
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import meshlib
import meshlib.aio
from meshlib._adapt.options import DEFAULTS
from meshlib.testing import ProcessServer, echo

BATCH = 300
MESSAGE = b"x" * 100


class Sink(SpanExporter):
    """Takes spans and does nothing."""

    def export(self, spans: object) -> SpanExportResult:
        """All of them."""
        return SpanExportResult.SUCCESS


def providers() -> tuple[TracerProvider, MeterProvider]:
    """All spans, in batches, and metrics."""
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Sink()))
    return tracers, MeterProvider(metric_readers=[InMemoryMetricReader()])


def sync_variants(addresses: list[str], stack: ExitStack) -> dict[str, Callable[[], object]]:
    """One function per variant that makes one call."""
    one, all_ = f"ipv4:{addresses[0]}", "ipv4:" + ",".join(addresses)
    static = "static:///" + ",".join(addresses)
    tracers, meters = providers()
    stack.callback(tracers.shutdown)
    stack.callback(meters.shutdown)
    retries = '{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.025s","maxBackoff":'
    retries += '"0.25s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}'
    round_robin = ("grpc.lb_policy_name", "round_robin")
    channels: dict[str, grpc.Channel] = {
        "bare": grpc.insecure_channel(one),
        "bare, our arguments": grpc.insecure_channel(one, options=DEFAULTS),
        "native round_robin": grpc.insecure_channel(all_, options=[round_robin]),
        "native round_robin + retryPolicy": grpc.insecure_channel(
            all_, options=[round_robin, ("grpc.service_config", retries)]
        ),
        "bare + opentelemetry": otel_intercept(
            grpc.insecure_channel(one, options=[("bench", 1)]), client_interceptor(tracer_provider=tracers)
        ),
        "meshlib, retries off": meshlib.channel(static, retry=None, retry_budget=None),
        "meshlib": meshlib.channel(static, timeout=5.0),
        "meshlib + spans + metric": meshlib.channel(
            static, timeout=5.0, tracer_provider=tracers, meter_provider=meters
        ),
    }
    for channel in channels.values():
        stack.callback(getattr(channel, "close", lambda: None))
    calls = {name: channel.unary_unary(echo.UNARY) for name, channel in channels.items()}
    return {name: (lambda call=call: call(MESSAGE)) for name, call in calls.items()}


def aio_variants(addresses: list[str]) -> dict[str, Callable[[], Awaitable[object]]]:
    """The same for asyncio."""
    channels = {
        "bare": grpc.aio.insecure_channel(f"ipv4:{addresses[0]}"),
        "meshlib": meshlib.aio.channel("static:///" + ",".join(addresses), timeout=5.0),
    }
    calls = {name: channel.unary_unary(echo.UNARY) for name, channel in channels.items()}
    return {name: (lambda call=call: call(MESSAGE)) for name, call in calls.items()}


def measure_sync(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU microseconds per call of this process, by variant and round."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, call in variants.items():
            started = time.process_time()
            for _ in range(BATCH):
                call()
            if turn:  # the first round connects
                found[name].append((time.process_time() - started) / BATCH * 1e6)
    return found


async def measure_aio(addresses: list[str], rounds: int) -> dict[str, list[float]]:
    """The same for asyncio, one call at a time."""
    variants = aio_variants(addresses)
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, call in variants.items():
            started = time.process_time()
            for _ in range(BATCH):
                await call()
            if turn:
                found[name].append((time.process_time() - started) / BATCH * 1e6)
    return found


def show(title: str, found: dict[str, list[float]]) -> None:
    """A table of one run."""
    print(f"\n{title:<36}{'CPU us/call':>12}{'ratio':>8}   middle half")
    for name, times in found.items():
        ratios = [time_ / bare for time_, bare in zip(times, found["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<36}{statistics.median(times):>12.1f}{middle:>8.3f}   {low:.3f} to {high:.3f}")


def main() -> None:
    """Runs and prints everything."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    print(
        f"{time.strftime('%Y-%m-%d')}, CPython {platform.python_version()}, grpcio {grpc.__version__}, "
        f"{platform.machine()}, {rounds} rounds of {BATCH} calls, one at a time, {len(MESSAGE)} bytes"
    )
    with ExitStack() as stack:
        addresses = [stack.enter_context(ProcessServer()).address for _ in range(3)]
        show("sync unary", measure_sync(sync_variants(addresses, stack), rounds))
        show("asyncio unary", asyncio.run(measure_aio(addresses, rounds)))
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
