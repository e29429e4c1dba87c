"""What the machines of a call and a cluster cost without a shell, and what importing meshlib does: no server involved.

usage: python benchmarks/machine.py [ROUNDS]

Every figure is the least of ROUNDS repetitions, since everything that disturbs a repetition adds to it. The lock is a
real one; connections answer READY at once, so that what grpc takes to answer (0.34 us) is not in it.
"""

import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import Call
from meshlib._core.cluster import Cluster
from meshlib._core.commands import ClusterCommand, Open, Rebuild
from meshlib._core.connectivity import READY
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.events import CallEvent
from meshlib._core.host import Host
from meshlib._core.policy import HedgingPolicy, Plan, RetryBudget, RetryPolicy
from meshlib._core.status import OK, Outcome

BATCH = 5000
FIRST_CHANNEL = "meshlib.channel('static:///127.0.0.1:1')"
METHOD = "/test.Service/Method"
UNAVAILABLE = Outcome("UNAVAILABLE", "gone")


class Connected:
    """A connection that stands."""

    def state(self, connect: bool) -> int:
        """READY."""
        return READY


class Observer:
    """Hears events and does nothing."""

    def on_call_event(self, call: Call, event: CallEvent) -> None:
        """One of them."""


def named(hosts: int) -> tuple[Endpoint, ...]:
    """So many endpoints."""
    return tuple(Endpoint(address=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:50051") for n in range(hosts))


def cluster(hosts: int) -> Cluster:
    """A cluster with this many connected hosts."""
    made = Cluster(
        "benchmark",
        balancer=RoundRobin(),
        rng=Random(0),
        lock=threading.Lock(),
        budget=RetryBudget(),
        attention=lambda: None,
    )
    perform(made, made.on_resolved(Resolution(endpoints=named(hosts)), now=0.0))
    perform(made, made.on_timer(now=1.0))
    assert made.ready == hosts
    return made


def perform(made: Cluster, commands: Sequence[ClusterCommand]) -> None:
    """What the control plane does, as far as it matters here."""
    pending = list(commands)
    while pending:
        command = pending.pop(0)
        if isinstance(command, Open):
            made.opened(command.host, Connected(), now=0.0)
        elif isinstance(command, Rebuild):
            pending.extend(made.rebuild(now=0.0))


def one_attempt(made: Cluster, plan: Plan, **more: Any) -> Callable[[], object]:
    """A call that succeeds at once."""

    def call() -> None:
        machine = Call(made, plan, METHOD, deadline=60.0, **more)
        machine.begin(now=1.0)
        machine.on_outcome(1, OK, now=1.1)

    return call


def one_retry(made: Cluster) -> Callable[[], object]:
    """A call whose first attempt fails."""
    plan = Plan(retry=RetryPolicy())

    def call() -> None:
        machine = Call(made, plan, METHOD, deadline=60.0)
        machine.begin(now=1.0)
        machine.on_outcome(1, UNAVAILABLE, now=1.1)
        machine.on_timer(now=2.0)
        machine.on_outcome(2, OK, now=2.1)

    return call


def pick_and_report(made: Cluster) -> Callable[[], object]:
    """What the cluster does for an attempt."""
    machine = Call(made, Plan(), METHOD)

    def pick() -> None:
        host = made.pick(machine, now=1.0)
        assert isinstance(host, Host)
        made.report(host, OK, 0.1, now=1.1)

    return pick


def sweep(made: Cluster) -> Callable[[], object]:
    """One look at all connections."""

    def look() -> None:
        made.on_timer(now=made.next_timer() or 0.0)

    return look


def update(made: Cluster, count: int) -> Callable[[], object]:
    """An answer of the resolver with one host more, or one less again, and the picker that is made for it."""
    turn = 0

    def change() -> None:
        nonlocal turn
        turn += 1
        perform(made, made.on_resolved(Resolution(endpoints=named(count + turn % 2)), now=2.0))

    return change


def imported(then: str = "pass") -> float:
    """Milliseconds that ``import meshlib``, and what comes ``then``, take where grpc has been imported, in a process of
    its own."""
    timed = f"began = time.perf_counter(); import meshlib; {then}; print(time.perf_counter() - began)"
    program = f"import time, grpc\n{timed}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return float(run.stdout) * 1000


def measure(function: Callable[[], object], rounds: int, batch: int = BATCH) -> float:
    """Nanoseconds of one run, the least of the rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter_ns()
        for _ in range(batch):
            function()
        best = min(best, (time.perf_counter_ns() - started) / batch)
    return best


def main() -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    three, thousand = cluster(3), cluster(1000)
    retry, hedging = Plan(retry=RetryPolicy()), Plan(hedging=HedgingPolicy())
    print(f"CPython {platform.python_version()}, least of {rounds} rounds of {BATCH}")
    for name, function in {
        "one attempt, 3 hosts": one_attempt(three, retry),
        "one attempt, 1,000 hosts": one_attempt(thousand, retry),
        "one attempt, hedged": one_attempt(three, hedging),
        "one attempt, observed": one_attempt(three, retry, observer=Observer()),
        "one retry": one_retry(three),
        "pick and report, 3 hosts": pick_and_report(three),
        "pick and report, 1,000 hosts": pick_and_report(thousand),
    }.items():
        print(f"{name:30} {measure(function, rounds):8.0f} ns")
    for name, function in {
        "sweep of 1,000 hosts": sweep(thousand),
        "snapshot of 1,000 hosts": lambda: thousand.snapshot(now=1.0),
        "one of 10,000 hosts changes": update(cluster(10_000), 10_000),
    }.items():
        print(f"{name:30} {measure(function, min(rounds, 5), 5) / 1000:8.0f} us")
    for name, then in {"import meshlib after grpc": "pass", "with its first channel": FIRST_CHANNEL}.items():
        print(f"{name:30} {min(imported(then) for _ in range(5)):8.1f} ms")


if __name__ == "__main__":
    main()
