"""Cost of the call and cluster machines without a shell, and of importing meshlib; no server involved.

usage: python benchmarks/machine.py [--rounds N] [--json FILE] [--quick]

Every figure is the minimum of the rounds, since noise only adds. The lock is real; connections answer READY at once,
without grpc's time to answer (0.34 us).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from by_hand import traced
from conditions import conditions
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import Call, CallObserver
from meshlib._core.call_record import CallRecord
from meshlib._core.cluster import ClusterMachine
from meshlib._core.cluster_policy import ClusterPolicy
from meshlib._core.commands import ClusterCommand, Open, Rebuild
from meshlib._core.connectivity import READY
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.events import AttemptStarted, CallEvent
from meshlib._core.host import HostEntry
from meshlib._core.policy import HedgingPolicy, Plan, RetryPolicy
from meshlib._core.status import OK, Outcome
from meshlib._core.target import parse_target
from meshlib._sync.clock import CLOCK
from meshlib._sync.streams import ResponseStream
from meshlib.telemetry._channel import Telemetry

BATCH = 5000
PICK, CALL, MESSAGE, IMPORT = (
    "a pick of 1,000 hosts, round_robin",
    "one attempt, 3 hosts",
    "a message of a stream",
    "import meshlib after grpc",
)
BUDGETS = {PICK: (1000, "ns"), CALL: (2000, "ns"), MESSAGE: (500, "ns"), IMPORT: (15, "ms")}
"""Upper bounds."""
FIRST_CHANNEL = "meshlib.channel('static:///127.0.0.1:1')"
METHOD = "/test.Service/Method"
UNAVAILABLE = Outcome("UNAVAILABLE", "gone")


class Connected:
    """An established connection."""

    def state(self, connect: bool) -> int:
        """Return READY."""
        return READY

    def glance(self) -> int | None:
        """Return READY."""
        return READY


class Observer:
    """Ignores events."""

    every_event = True

    def on_attempt_started(self, call: CallRecord, event: AttemptStarted) -> tuple[()]:
        """Ignore the start of an attempt, and add no metadata to it."""
        return ()

    def on_call_event(self, call: CallRecord, event: CallEvent) -> None:
        """Ignore one event."""


class Ended:
    """Handle of an ended call."""

    def abandon(self) -> None:
        """Do nothing: the call has ended."""


def named(hosts: int) -> tuple[Endpoint, ...]:
    """Return ``hosts`` endpoints."""
    return tuple(Endpoint(address=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:50051") for n in range(hosts))


def cluster(hosts: int) -> ClusterMachine:
    """Return a cluster with ``hosts`` connected hosts."""
    made = ClusterMachine(
        "benchmark", ClusterPolicy(balancer=RoundRobin()), rng=Random(0), threads=CLOCK, attention=lambda: None
    )
    perform(made, made.on_resolved(Resolution(endpoints=named(hosts)), now=0.0))
    perform(made, made.on_timer(now=1.0))
    assert made.ready == hosts
    return made


def perform(made: ClusterMachine, commands: Sequence[ClusterCommand]) -> None:
    """Perform commands as the control plane does, as far as needed here."""
    pending = list(commands)
    while pending:
        command = pending.pop(0)
        if isinstance(command, Open):
            made.opened(command.host, Connected(), now=0.0)
        elif isinstance(command, Rebuild):
            pending.extend(made.rebuild(now=0.0))


def one_attempt(made: ClusterMachine, plan: Plan, observer: CallObserver | None = None) -> Callable[[], object]:
    """Return a call that succeeds at once."""

    def call() -> None:
        machine = Call(made, plan, METHOD, deadline=60.0)
        if observer is not None:
            machine.observe(observer)
        machine.begin(now=1.0)
        machine.on_outcome(1, OK, now=1.1)

    return call


def one_retry(made: ClusterMachine) -> Callable[[], object]:
    """Return a call whose first attempt fails."""
    plan = Plan(retry=RetryPolicy())

    def call() -> None:
        machine = Call(made, plan, METHOD, deadline=60.0)
        machine.begin(now=1.0)
        machine.on_outcome(1, UNAVAILABLE, now=1.1)
        machine.on_timer(now=2.0)
        machine.on_outcome(2, OK, now=2.1)

    return call


def pick_and_report(made: ClusterMachine) -> Callable[[], object]:
    """Return the work of the cluster for an attempt."""
    machine = Call(made, Plan(), METHOD)

    def pick() -> None:
        host = made.pick(machine, now=1.0)
        assert isinstance(host, HostEntry)
        made.report(host, OK, 0.1, now=1.1)

    return pick


def pick(made: ClusterMachine) -> Callable[[], object]:
    """Return the work of its picker."""
    machine = Call(made, Plan(), METHOD)
    picker = RoundRobin().picker(tuple(made.hosts), rng=Random(0))
    return lambda: picker.pick(machine, now=1.0)


def message() -> Callable[[], object]:
    """Return the work per message beside grpc's own ``next()``, after the first one."""
    stream: Any = ResponseStream.__new__(ResponseStream)
    stream._engine = Ended()
    stream._read = lambda: b""
    return lambda: next(stream)


def telemetry(made: ClusterMachine) -> dict[str, Callable[[], object]]:
    """Return a span, a measurement and the sent context of an empty call, by hand and by meshlib."""
    tracers = TracerProvider(shutdown_on_exit=False)
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    duration = meters.get_meter("by hand").create_histogram("by.hand", "s")
    by_hand = traced(lambda request, **_: request, tracers.get_tracer("by hand"), duration)
    ours = Telemetry(parse_target("svc-a"), tracer_provider=tracers, meter_provider=meters)
    call = Call(made, Plan(), METHOD)
    call.begin(now=1.0)

    def by_us() -> None:
        ours.call_started(call, (), 1.0)
        ours.call_ended(call, OK, 1.1)

    return {
        "span and measurement, by hand": lambda: by_hand(b""),
        "span and measurement, by meshlib": by_us,
    }


def sweep(made: ClusterMachine) -> Callable[[], object]:
    """Return one poll of all connections."""

    def look() -> None:
        made.on_timer(now=made.next_timer() or 0.0)

    return look


def update(made: ClusterMachine, count: int) -> Callable[[], object]:
    """Return a resolver answer that adds or removes one host, with the new picker."""
    turn = 0

    def change() -> None:
        nonlocal turn
        turn += 1
        perform(made, made.on_resolved(Resolution(endpoints=named(count + turn % 2)), now=2.0))

    return change


def imported(then: str = "pass") -> float:
    """Return milliseconds of ``import meshlib`` and ``then``, in a new process that has imported grpc."""
    timed = f"began = time.perf_counter(); import meshlib; {then}; print(time.perf_counter() - began)"
    program = f"import time, grpc\n{timed}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return float(run.stdout) * 1000


def measure(function: Callable[[], object], rounds: int, batch: int) -> float:
    """Return nanoseconds of one run, the minimum of the rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter_ns()
        for _ in range(batch):
            function()
        best = min(best, (time.perf_counter_ns() - started) / batch)
    return best


def figures(rounds: int, batch: int) -> dict[str, tuple[float, str]]:
    """Return each figure with its unit."""
    three, thousand = cluster(3), cluster(1000)
    retry, hedging = Plan(retry=RetryPolicy()), Plan(hedging=HedgingPolicy())
    small: dict[str, Callable[[], object]] = {
        PICK: pick(thousand),
        CALL: one_attempt(three, retry),
        "one attempt, 1,000 hosts": one_attempt(thousand, retry),
        "one attempt, hedged": one_attempt(three, hedging),
        "one attempt, observed": one_attempt(three, retry, observer=Observer()),
        "one retry": one_retry(three),
        "pick and report, 3 hosts": pick_and_report(three),
        "pick and report, 1,000 hosts": pick_and_report(thousand),
        MESSAGE: message(),
        **telemetry(three),
    }
    large: dict[str, Callable[[], object]] = {
        "sweep of 1,000 hosts": sweep(thousand),
        "snapshot of 1,000 hosts": lambda: thousand.snapshot(now=1.0),
        "one of 10,000 hosts changes": update(cluster(10_000), 10_000),
    }
    found = {name: (measure(function, rounds, batch), "ns") for name, function in small.items()}
    found |= {name: (measure(function, min(rounds, 5), 5) / 1000, "us") for name, function in large.items()}
    for name, then in {IMPORT: "pass", "with its first channel": FIRST_CHANNEL}.items():
        found[name] = min(imported(then) for _ in range(min(rounds, 10))), "ms"
    return found


def main() -> None:
    """Run the benchmark, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of which the least counts (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--quick", action="store_true", help="whether it works")
    options = parser.parse_args()
    about = conditions()
    print(*about.values(), sep="\n")
    found = figures(1 if options.quick else options.rounds, 50 if options.quick else BATCH)
    budgets = []
    for name, (figure, unit) in found.items():
        told = f"{figure:.1f}" if unit == "ms" else f"{figure:.0f}"
        line = f"{name:36}{told:>8} {unit}"
        if name in BUDGETS:
            most = f"{BUDGETS[name][0]} {unit}"
            verdict = "met" if figure <= BUDGETS[name][0] else "not met"
            budgets.append({"what": name, "most": most, "found": f"{told} {unit}", "verdict": verdict})
            line += f", at most {most}: {verdict}"
        print(line)
    if options.json is not None:
        told = {"conditions": about, "figures": found, "budgets": budgets}
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
