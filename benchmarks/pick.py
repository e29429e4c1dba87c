"""Nanoseconds per pick and cost of a membership change, for each balancer and number of hosts.

    python benchmarks/pick.py

The hosts are those of a channel, so that reading a weight has its real cost. They are idle, except in the "busy" row,
where each has a call in flight. ``build`` runs outside of the channel's steps, ``adopt`` in one. The fastest of several
rounds counts: the others measure machine noise.
"""

import argparse
import math
import platform
from random import Random
from time import perf_counter_ns

from meshlib._core.host import HostEntry
from meshlib.balancing import Balancer, LeastRequest, PickFirst, RoundRobin
from meshlib.balancing import Random as RandomBalancer
from meshlib.discovery import Endpoint
from meshlib.testing.balancing import SimulatedCall

SIZES = (3, 100, 1_000, 10_000)
CALL = SimulatedCall()
ENOUGH = 20e6
"""Approximate nanoseconds of a round."""
BUSY = "full_scan, busy"
BALANCERS: dict[str, tuple[Balancer, bool]] = {
    "round_robin": (RoundRobin(), False),
    "round_robin, weights": (RoundRobin(), True),
    "least_request": (LeastRequest(), False),
    "full_scan": (LeastRequest(selection_method="full_scan"), False),
    BUSY: (LeastRequest(selection_method="full_scan"), False),
    "least_request, weights": (LeastRequest(), True),
    "random": (RandomBalancer(), False),
    "random, weights": (RandomBalancer(), True),
    "pick_first": (PickFirst(), False),
}


def hosts(size: int, weighted: bool, in_flight: int) -> tuple[HostEntry, ...]:
    """Return hosts like a channel's; with ``weighted`` their weights cover 1 to 10."""
    made = tuple(
        HostEntry(Endpoint(address=f"10.0.0.1:{1 + n}", weight=1 + n % 10 if weighted else 1)) for n in range(size)
    )
    for host in made:
        host.in_flight = in_flight
    return made


def measure(balancer: Balancer, weighted: bool, in_flight: int, size: int, rounds: int) -> tuple[float, float, float]:
    """Return nanoseconds of a pick, of building a picker and of adopting the previous one."""
    members = hosts(size, weighted, in_flight)
    picker = balancer.picker(members, rng=Random(1))
    pick = picker.pick

    def ns_pick(times: int) -> float:
        start = perf_counter_ns()
        for _ in range(times):
            pick(CALL, now=1.0)
        return (perf_counter_ns() - start) / times

    times = max(20, round(ENOUGH / ns_pick(20)))
    picks = min(ns_pick(times) for _ in range(rounds))
    build = adopt = math.inf
    for _ in range(rounds):
        start = perf_counter_ns()
        successor = balancer.picker(members, rng=Random(1))
        built = perf_counter_ns()
        successor.adopt(picker, now=1.0)
        adopt = min(adopt, perf_counter_ns() - built)
        build = min(build, built - start)
    return picks, build, adopt


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="of which the fastest counts (default: 7)")
    rounds = parser.parse_args().rounds
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, best of {rounds}\n")
    print(f"{'':24}{'pick, ns':>32}{'build, us':>32}{'adopt, us':>32}")
    print(f"{'hosts':24}" + "".join(f"{size:>8,}" for size in SIZES) * 3)
    for name, (balancer, weighted) in BALANCERS.items():
        in_flight = int(name == BUSY)
        columns = list(zip(*(measure(balancer, weighted, in_flight, size, rounds) for size in SIZES), strict=True))
        cells = [f"{ns:8.0f}" for ns in columns[0]] + [f"{ns / 1000:8.1f}" for ns in (*columns[1], *columns[2])]
        print(f"{name:24}{''.join(cells)}")


if __name__ == "__main__":
    main()
