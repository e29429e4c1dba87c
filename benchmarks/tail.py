"""Tail latency with one of four servers 20 times as slow: each balancer, Envoy's, grpc's own.

usage: python benchmarks/tail.py [--rounds N] [--calls N] [--json FILE] [--quick]

Three servers take 5 ms for a call, one takes 100. 16 threads call without a pause, through one channel. A row is the
median of the rounds, in each of which every peer runs once; ``share`` is the slow server's share of calls. Two tables:

- ``waiting``: a call takes its time regardless of load, as when the server waits for another. A balancer with the same
  number in flight at each still sends the slow one 1 call of 61, so p99 is its 100 ms: compare p95.
- ``working``: a server does one call at a time, and the others queue. So the time of a call at the slow server is the
  number of calls before it times 100 ms: compare p99.

Last comes p99 of ``least_request`` with a full scan as a share of that of Envoy's two choices, at most 0.8.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
from conditions import conditions
from figures import percentile
from sidecar import binary, least_request, sidecar

import meshlib
from meshlib.balancing import LeastRequest
from meshlib.testing.addresses import reserve
from meshlib.testing.processes import Child

CALLERS = 16
HOLD_MS = (5.0, 5.0, 5.0, 100.0)
KINDS = ("waiting", "working")
METHOD = "/bench.Tail/Call"
TIMEOUT = 30.0
OURS, THEIRS = "meshlib least_request, full_scan", "Envoy LEAST_REQUEST, N_CHOICES"
MOST = 0.8
"""Maximum ratio of our p99 to theirs."""

Opened = AbstractContextManager[grpc.Channel]


def serve(address: str, hold: float, working: bool) -> None:
    """Serve calls of ``hold`` milliseconds, answering the address, until standard input ends."""

    async def call(_: bytes, __: Any) -> bytes:
        async with lock if working else nullcontext():
            await asyncio.sleep(hold / 1000)
        return address.encode()

    lock = asyncio.Lock()

    async def run() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(call)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Tail", {"Call": handler}),))
        server.add_insecure_port(address)
        await server.start()
        print("ready", flush=True)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        loop.run_in_executor(None, lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)))
        await ended.wait()
        await server.stop(None)

    asyncio.run(run())


@contextmanager
def servers(kind: str) -> Any:
    """Start the servers; yield their addresses, the slow one's last."""
    with ExitStack() as stack, TemporaryDirectory(prefix="meshlib-tail-") as directory:
        addresses = []
        for n, hold in enumerate(HOLD_MS):
            reservation = reserve("127.0.0.1:0")
            stack.callback(reservation.release)
            log = Path(directory) / f"log-{n}"
            child = Child([sys.executable, __file__, "--serve", reservation.address, str(hold), kind], log=log)
            child.start()
            stack.callback(child.kill)
            child.wait_until(lambda log=log: "ready" in log.read_text())
            addresses.append(reservation.address)
        yield addresses


def peers(addresses: list[str]) -> dict[str, Callable[[], Opened]]:
    """The measured peers."""
    local = ("grpc.use_local_subchannel_pool", 1)
    native = ("grpc.lb_policy_name", "round_robin")
    static, plain = "static:///" + ",".join(addresses), "ipv4:" + ",".join(addresses)

    def mesh(balancer: Any) -> Callable[[], Opened]:
        return lambda: meshlib.channel(static, balancer=balancer)

    def envoy(cluster: dict[str, Any]) -> Callable[[], Opened]:
        @contextmanager
        def opened() -> Any:
            with (
                sidecar(addresses, cluster=cluster) as running,
                grpc.insecure_channel(running.target, options=[local]) as channel,
            ):
                yield channel

        return opened

    found = {
        "meshlib round_robin": mesh("round_robin"),
        "meshlib random": mesh("random"),
        "meshlib least_request": mesh("least_request"),
        OURS: mesh(LeastRequest(selection_method="full_scan")),
        "grpc round_robin": lambda: grpc.insecure_channel(plain, options=[native, local]),
    }
    if binary() is not None:
        found |= {
            "Envoy ROUND_ROBIN": envoy({"lb_policy": "ROUND_ROBIN"}),
            THEIRS: envoy(least_request("N_CHOICES")),
            "Envoy LEAST_REQUEST, FULL_SCAN": envoy(least_request("FULL_SCAN")),
        }
    return found


def run(channel: grpc.Channel, slow: str, calls: int) -> dict[str, float]:
    """Measure one row of one round."""
    call = channel.unary_unary(METHOD)
    reached: Counter[str] = Counter()
    end = time.monotonic() + TIMEOUT
    while len(reached) < len(HOLD_MS) and time.monotonic() < end:  # every connection is established, or has been tried
        for future in [call.future(b"", timeout=TIMEOUT, wait_for_ready=True) for _ in range(8)]:
            reached[future.result().decode()] += 1
    took: list[float] = []
    given: Counter[str] = Counter()
    left = iter(range(calls))

    def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            server = call(b"", timeout=TIMEOUT).decode()
            took.append(time.perf_counter() - began)
            given[server] += 1

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    took.sort()
    return {
        "calls_per_second": calls / elapsed,
        "p50_ms": percentile(took, 0.5) * 1000,
        "p95_ms": percentile(took, 0.95) * 1000,
        "p99_ms": percentile(took, 0.99) * 1000,
        "share": given[slow] / calls,
    }


def measured(kind: str, rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Medians of each figure, by peer."""
    found: dict[str, list[dict[str, float]]] = {}
    with servers(kind) as addresses:
        made = peers(addresses)
        for _ in range(rounds):
            order = list(made)
            SystemRandom().shuffle(order)
            for name in order:
                with made[name]() as channel:
                    found.setdefault(name, []).append(run(channel, addresses[-1], calls))
    return {
        name: {figure: statistics.median(row[figure] for row in found[name]) for figure in found[name][0]}
        for name in made
    }


def main() -> None:
    """Run the benchmark and print the results."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], float(sys.argv[3]), sys.argv[4] == "working")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--calls",
        type=int,
        default=2000,
        help="of each row and round; working: a quarter (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="one round of 200 calls: whether it works")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    rounds, calls = (1, 200) if options.quick else (options.rounds, options.calls)
    about = conditions()
    found = {kind: measured(kind, rounds, calls if kind == "waiting" else calls // 4) for kind in KINDS}
    print(*about.values(), sep="\n")
    print(f"{CALLERS} callers, servers that hold {', '.join(f'{ms:g}' for ms in HOLD_MS)} ms, {rounds} x {calls} calls")
    for kind, rows in found.items():
        print(f"\n{kind:<34}{'calls/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'share':>8}")
        for name, row in rows.items():
            times = "".join(f"{row[figure]:>9.1f}" for figure in ("p50_ms", "p95_ms", "p99_ms"))
            print(f"{name:<34}{row['calls_per_second']:>9.0f}{times}{row['share']:>8.1%}")
        if THEIRS in rows:
            print(f"p99 of {OURS} / {THEIRS}: {rows[OURS]['p99_ms'] / rows[THEIRS]['p99_ms']:.2f} (at most {MOST})")
    if options.json is not None:
        told = {"conditions": about, "rounds": rounds, "calls": calls, "tables": found}
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
