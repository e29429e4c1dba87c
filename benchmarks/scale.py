"""Many hosts and many channels: memory, threads, idle CPU, and how long a change takes to arrive.

usage: python benchmarks/scale.py [--json FILE] [--quick]

One server process listens on every loopback address, so each host has its own connection and its own address (Linux,
where all of 127.0.0.0/8 exists). Each row has its own client process. Measured once all hosts are connected:

- ``connected``: seconds from the first call until every host is connected;
- ``memory``: resident KiB per host (or channel), against the same process before it had a channel;
- ``threads``: number of threads above that;
- ``idle CPU``: share of one core over some seconds without a call;
- ``one host more``: milliseconds of CPU of the control thread, and of time, from the resolver's answer until the host
  is connected, checked every 20 ms; answers are more than a second apart, since a channel resolves no more often;
- ``same answer``: milliseconds of CPU of the control thread for an answer that changes nothing;
- ``call``: microseconds of CPU of a call, after one call to each host.

Then channels to one host beside grpc's, in turns in one process (``--channels`` runs this part alone):

- ``open, call once, close``: seconds for 1,500 channels, all open at once;
- ``a channel per call``: milliseconds of each, sequentially;
- ``ready``: milliseconds until ``grpc.channel_ready_future`` of a new channel is done;
- ``idle``: share of one core over some seconds of 500 channels after one call each.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from conditions import conditions

import meshlib
from meshlib.discovery import Endpoint, Resolution, Target, register_resolver
from meshlib.testing import echo

FEW, READY = "3 hosts", "1,000 hosts"
ROWS = (FEW, READY, "10,000 hosts", "100 channels of 3 hosts")
COLUMNS = (
    "connected, s",
    "memory, KiB each",
    "threads more",
    "idle CPU",
    "one host more, ms CPU",
    "until it is connected, ms",
    "same answer, ms CPU",
    "call, µs CPU",
)
MEMORY, THREADS = 1, 2
"""Columns of the budgets, for a ready and idle host."""
MOST_MEMORY, MOST_THREADS = 50, 0
PATIENCE = 300.0
IDLE = 5.0
CHANGES = 5
REST = 1.2
"""Seconds between two answers."""


class Registry:
    """Resolver with a long poll: returns the hosts when they change."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._endpoints: tuple[Endpoint, ...] = ()
        self._version = 0

    def set(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Set the hosts."""
        with self._changed:
            self._endpoints = endpoints
            self._version += 1
            self._changed.notify_all()

    def resolver(self, _: Target) -> "Poll":
        """Return the resolver of one channel."""
        return Poll(self)

    def after(self, version: int) -> tuple[int, tuple[Endpoint, ...]]:
        """Wait until the hosts differ from those of ``version``; return them."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, 20.0)
            return self._version, self._endpoints


class Poll:
    """A long poll of one channel."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._version = 0

    def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the next answer."""
        self._version, endpoints = self._registry.after(0 if previous is None else self._version)
        return Resolution(endpoints=endpoints, ttl=0.0)


def endpoints(count: int, port: int) -> tuple[Endpoint, ...]:
    """Return ``count`` loopback addresses."""
    return tuple(Endpoint(address=f"127.{1 + n // 60_000}.{n // 250 % 240}.{1 + n % 250}:{port}") for n in range(count))


def until(condition: Callable[[], bool], what: str) -> float:
    """Wait for the condition; return the seconds."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > PATIENCE:
            raise TimeoutError(f"not in {PATIENCE:.0f} s: {what}")
        time.sleep(0.02)
    return time.perf_counter() - began


def control() -> float:
    """Return CPU seconds of the control thread so far."""
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "meshlib-control")
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def resident() -> float:
    """Return resident memory in KiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def threads() -> int:
    """Return the number of threads, including C-core's."""
    return len(list(Path("/proc/self/task").iterdir()))


def row(channels: int, hosts: int, port: int, quick: bool) -> list[float]:
    """Return the figures of one row, in a fresh process."""
    with meshlib.channel(f"static:///127.0.0.1:{port}") as first:
        first.unary_unary(echo.UNARY)(b"")  # what is made, and imported, once per process is not counted
    registry = Registry()
    register_resolver("bench", registry.resolver)
    registry.set(endpoints(hosts, port))
    memory, before = resident(), threads()
    made = [meshlib.channel("bench:///svc", options=[("bench.channel", n)]) for n in range(channels)]
    calls = [channel.unary_unary(echo.UNARY) for channel in made]

    def connected(count: int) -> bool:
        return all(sum(host.state == "READY" for host in channel.mesh.snapshot().hosts) == count for channel in made)

    began = time.perf_counter()
    for call in calls:
        call(b"", wait_for_ready=True, timeout=PATIENCE)
    until(lambda: connected(hosts), f"{hosts} hosts are connected")
    took = time.perf_counter() - began
    grown = (resident() - memory) / (hosts if channels == 1 else channels)
    more = threads() - before

    def cpu(what: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
        start = clock()
        what()
        return clock() - start

    idle, rest = (0.1, 0.0) if quick else (IDLE, REST)
    time.sleep(rest)
    at_rest = cpu(lambda: time.sleep(idle)) / idle
    changes, arrivals = [], []
    for change in range(CHANGES):
        named = endpoints(hosts + change % 2 + 1, port) if hosts > 3 else endpoints(3 + change % 2, port)

        def changed(named: tuple[Endpoint, ...] = named) -> None:
            registry.set(named)
            arrivals.append(until(lambda: connected(len(named)), "the change has arrived"))

        time.sleep(rest)
        changes.append(cpu(changed, control))
    named = registry.after(-1)[1]

    def nothing_changes() -> None:
        seen = [channel.mesh.snapshot().last_resolution for channel in made]
        registry.set(named)
        until(
            lambda: all(
                channel.mesh.snapshot().last_resolution != before for channel, before in zip(made, seen, strict=True)
            ),
            "the answer has arrived",
        )

    same = []
    for _ in range(CHANGES):
        time.sleep(rest)
        same.append(cpu(nothing_changes, control))
    count = max(2000, len(named))
    for n in range(count):
        calls[n % channels](b"", timeout=PATIENCE)
    per_call = cpu(lambda: [calls[n % channels](b"", timeout=PATIENCE) for n in range(count)]) / count
    for channel in made:
        channel.close()
    return [
        took,
        grown,
        more,
        at_rest,
        statistics.median(changes) * 1000,
        statistics.median(arrivals) * 1000,
        statistics.median(same) * 1000,
        per_call * 1e6,
    ]


def beside_grpc(port: int, quick: bool) -> dict[str, list[float]]:
    """Return the figures of meshlib and grpc, medians of the turns, in a fresh process."""
    address = f"127.0.0.1:{port}"
    kinds: dict[str, Callable[[], grpc.Channel]] = {
        "meshlib": lambda: meshlib.channel(f"static:///{address}"),
        "grpc": lambda: grpc.insecure_channel(address),
    }
    many, some, few = (20, 10, 5) if quick else (1500, 500, 100)

    def call(channel: grpc.Channel) -> None:
        channel.unary_unary(echo.UNARY)(b"", timeout=PATIENCE)

    def all_at_once(make: Callable[[], grpc.Channel]) -> None:
        channels = [make() for _ in range(many)]
        for channel in channels:
            call(channel)
        for channel in channels:
            channel.close()

    def per_call(make: Callable[[], grpc.Channel]) -> None:
        for _ in range(few):
            with make() as channel:
                call(channel)

    def ready(make: Callable[[], grpc.Channel]) -> None:
        for _ in range(few):
            with make() as channel:
                grpc.channel_ready_future(channel).result(PATIENCE)

    def seconds(what: Callable[[Callable[[], grpc.Channel]], None], scale: float) -> list[float]:
        taken: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(1 if quick else 3):
            for kind, make in kinds.items():
                began = time.perf_counter()
                what(make)
                taken[kind].append((time.perf_counter() - began) * scale)
        return [statistics.median(each) for each in taken.values()]

    def at_rest(make: Callable[[], grpc.Channel]) -> float:
        channels = [make() for _ in range(some)]
        for channel in channels:
            call(channel)
        time.sleep(0.1 if quick else 4.0)
        span, began = 0.1 if quick else IDLE, time.process_time()
        time.sleep(span)
        share = (time.process_time() - began) / span
        for channel in channels:
            channel.close()
        return share * 100

    for make in kinds.values():
        per_call(make)  # what is made, and imported, once per process is not counted
    return {
        f"{many:,} channels: open, call once, close, s": seconds(all_at_once, 1.0),
        "a channel per call, ms": seconds(per_call, 1000 / few),
        "ready, ms": seconds(ready, 1000 / few),
        f"{some} idle channels, % of a core": [at_rest(make) for make in kinds.values()],
    }


def served(*arguments: str) -> object:
    """Run this program with ``arguments`` and the port of a new server, in a fresh process; return its output."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdin=-1, stdout=-1, text=True) as server:
        try:
            assert server.stdout is not None
            command = [sys.executable, __file__, *arguments, server.stdout.readline().strip()]
            run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if run.returncode:
                sys.exit(run.stderr)
            return json.loads(run.stdout)
        finally:
            server.kill()


def serve() -> None:
    """Serve the echo service on every address until standard input ends."""
    server = grpc.server(ThreadPoolExecutor(4))
    echo.add_echo_to_server(server)
    print(server.add_insecure_port("0.0.0.0:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


def told(figures: list[float]) -> list[str]:
    """Format the figures."""
    connected, memory, more, idle, change, arrival, same, call = figures
    return [
        f"{connected:.2f}",
        f"{memory:.0f}",
        f"{more:.0f}",
        f"{idle:.1%}",
        f"{change:.1f}",
        f"{arrival:.0f}",
        f"{same:.2f}",
        f"{call:.0f}",
    ]


def budgets(rows: dict[str, list[str]]) -> list[dict[str, str]]:
    """Check the budgets; skip them in a quick run."""
    if READY not in rows:
        return []
    memory = int(rows[READY][MEMORY])
    threads = max(0, int(rows[READY][THREADS]) - int(rows[FEW][THREADS]))
    told = (
        ("a ready host of 1,000: memory", memory, MOST_MEMORY, " KiB"),
        ("997 ready hosts more: threads", threads, MOST_THREADS, ""),
    )
    found = []
    for what, figure, most, unit in told:
        verdict = "met" if figure <= most else "not met"
        found.append({"what": what, "most": f"{most}{unit}", "found": f"{figure}{unit}", "verdict": verdict})
    return found


def main() -> None:
    """Run the benchmark and print the results."""
    if sys.argv[1:2] == ["--serve"]:
        serve()
        return
    if sys.argv[1:2] == ["--row"]:
        channels, hosts = map(int, sys.argv[2:4])
        print(json.dumps(row(channels, hosts, int(sys.argv[5]), sys.argv[4] == "quick")))
        return
    if sys.argv[1:2] == ["--beside-grpc"]:
        print(json.dumps(beside_grpc(int(sys.argv[3]), sys.argv[2] == "quick")))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--quick", action="store_true", help="few hosts, few channels: whether it works")
    parser.add_argument("--channels", action="store_true", help="only those beside grpc's")
    options = parser.parse_args()
    quick = "quick" if options.quick else ""
    about = conditions()
    print(*about.values(), sep="\n")
    sizes = [(1, 3), (1, 1000), (1, 10_000), (100, 3)]
    names = list(ROWS)
    if options.quick:
        sizes, names = [(1, 3), (1, 50), (5, 3)], ["3 hosts", "50 hosts", "5 channels of 3 hosts"]
    rows = {}
    if options.channels:
        sizes, names = [], []
    for name, (channels, hosts) in zip(names, sizes, strict=True):
        figures = served("--row", str(channels), str(hosts), quick)
        assert isinstance(figures, list)
        rows[name] = told(figures)
        print(f"\n{name}")
        for column, figure in zip(COLUMNS, rows[name], strict=True):
            print(f"    {column:<28}{figure:>10}", flush=True)
    beside = served("--beside-grpc", quick)
    assert isinstance(beside, dict)
    print(f"\n{'channels beside those of grpc':<46}{'meshlib':>10}{'grpc':>10}")
    for name, (ours, theirs) in beside.items():
        print(f"    {name:<42}{ours:>10.2f}{theirs:>10.2f}", flush=True)
    if options.json is not None:
        found = {"conditions": about, "columns": COLUMNS, "rows": rows, "channels": beside, "budgets": budgets(rows)}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
