"""Cost of restarting four servers one after another under 16 callers, compared with other clients.

usage: python benchmarks/rolling.py [--calls N] [--restarts N] [--shell sync|aio] [--how SIGTERM|SIGKILL]
                                    [--peer meshlib|native|envoy|envoy-unlimited]
                                    [--codes UNAVAILABLE,CANCELLED|UNAVAILABLE] [--seed N] [--json]

Every peer first makes a fifth of the calls without restarts, on the same connections, and then all of them while the
servers are restarted in turn; its p99 is compared with its own without restarts. A stopping server (SIGTERM) gives
calls in flight 1 second; a killed one (SIGKILL) none. ``runs`` counts the calls that servers began to handle, from
their journals; ``attempts`` is the peer's own count, which grpc does not have.

A Python grpc server that stops gracefully ends some calls with CANCELLED. meshlib.channel retries it by default, and
the other peers are configured alike; SIGTERM is run a second time without CANCELLED among the retried codes.

The exit status is 1, and standard error says which, if a row of meshlib's had failed calls or more attempts per call
than 1.02 (SIGTERM) or 1.10 (SIGKILL). Rows of SIGTERM without CANCELLED are exempt.
"""

import argparse
import json
import sys
from collections import Counter
from contextlib import ExitStack
from functools import partial
from random import Random, SystemRandom

from conditions import conditions
from rolling_load import CALLERS, HOLD_MS, Run, run
from rolling_peers import PEERS
from sidecar import binary

from meshlib.testing import ProcessServer

SERVERS = 4
GRACE = 1.0  # seconds
BOUNDS = {"SIGTERM": 1.02, "SIGKILL": 1.10}
"""Maximum attempts per call."""
CODES = ("UNAVAILABLE,CANCELLED", "UNAVAILABLE")


def measured(shell: str, peer: str, how: str, codes: list[str], options: argparse.Namespace) -> dict[str, object]:
    """Measure one row, on servers of its own, so that rows do not affect each other."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ProcessServer(grace=GRACE)) for _ in range(SERVERS)]
        Random(options.seed).shuffle(servers)
        opened = partial(PEERS[peer], shell, [server.address for server in servers], codes)
        result = run(shell, opened, servers, how, options.calls, options.restarts)
        runs = sum((server.executions for server in servers), Counter[str]())
    return row(result, runs) | {"shell": shell, "peer": peer, "how": how, "codes": codes}


def row(result: Run, runs: Counter[str]) -> dict[str, object]:
    """Return the figures of a run."""
    quiet, rolling = result.quiet, result.rolling
    return {
        "calls": rolling.calls,
        "restarts": result.restarts,
        "failed": rolling.failed,
        "failed in peace": quiet.failed,
        "details": rolling.details,
        "attempts per call": None if result.attempts is None else result.attempts / rolling.calls,
        "runs per call": (runs.total() - quiet.calls) / rolling.calls,
        "calls per second": rolling.calls / result.elapsed,
        "quiet p99 ms": quiet.percentile(0.99),
        "p99 ms": rolling.percentile(0.99),
        "max ms": rolling.percentile(1.0),
    }


def broken(found: dict[str, object]) -> list[str]:
    """Describe the bounds that a row exceeded."""
    how, codes = str(found["how"]), str(found["codes"])
    if found["peer"] != "meshlib" or (how == "SIGTERM" and "CANCELLED" not in codes):
        return []
    failed: dict[str, int] = found["failed"]  # type: ignore[assignment]
    attempts = float(str(found["attempts per call"]))
    said = []
    if failed:
        said.append(f"{sum(failed.values())} calls failed: {failed}")
    if attempts > BOUNDS[how]:
        said.append(f"{attempts:.4f} attempts per call are more than {BOUNDS[how]}")
    return [f"{found['shell']} {how} {codes}: {what}" for what in said]


def show(found: dict[str, object]) -> None:
    """Print one line of the table, and a line for each code that failed calls."""

    def number(name: str, form: str) -> str:
        value = found[name]
        return "-" if value is None else format(value, form)

    quiet, rolling = float(str(found["quiet p99 ms"])), float(str(found["p99 ms"]))
    failed: dict[str, int] = found["failed"]  # type: ignore[assignment]
    cancelled = "yes" if "CANCELLED" in str(found["codes"]) else "no"
    print(
        f"{found['shell']:<5}{found['how']:<8}{found['peer']:<17}{cancelled:<10}{found['restarts']:>8}"
        f"{sum(failed.values()):>8}{number('attempts per call', '.4f'):>10}{number('runs per call', '.4f'):>8}"
        f"{quiet:>9.1f}{rolling:>9.1f}{rolling / quiet:>7.1f}{number('max ms', '.0f'):>7}"
        f"{number('calls per second', '.0f'):>7}"
    )
    details: dict[str, str] = found["details"]  # type: ignore[assignment]
    for code, count in failed.items():
        print(f"        {count} x {code}: {' '.join(details[code].split())[:150]}", flush=True)


def main() -> int:
    """Run the benchmark and print the results; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="of each run (default: %(default)s)")
    parser.add_argument("--restarts", type=int, default=16, help="of each run, at most (default: %(default)s)")
    parser.add_argument("--shell", choices=("sync", "aio"), action="append", help="default: both")
    parser.add_argument("--how", choices=("SIGTERM", "SIGKILL"), action="append", help="default: both")
    parser.add_argument("--peer", choices=tuple(PEERS), action="append", help="default: all")
    parser.add_argument(
        "--codes",
        choices=CODES,
        action="append",
        help="retried (default: the first, which is the default of meshlib.channel; for SIGTERM the second too)",
    )
    parser.add_argument("--seed", type=int, help="of the order of the servers (default: a new one)")
    parser.add_argument("--json", action="store_true", help="print rows as lines of JSON")
    options = parser.parse_args()
    options.seed = SystemRandom().randrange(2**32) if options.seed is None else options.seed
    peers = [peer for peer in options.peer or PEERS if "envoy" not in peer or binary() is not None]
    if not options.json:
        print(*conditions().values(), f"seed {options.seed}", sep="\n")
        print(f"{SERVERS} servers, {CALLERS} callers, {options.calls} calls, handlers hold {HOLD_MS} ms\n")
        print(
            f"{'':<5}{'':<8}{'':<17}{'CANCELLED':<10}{'':>8}{'failed':>8}{'attempts':>10}{'runs':>8}"
            f"{'p99 ms':>9}{'p99 ms':>9}{'':>7}{'max':>7}{'calls':>7}"
        )
        print(
            f"{'':<5}{'':<8}{'':<17}{'retried':<10}{'restarts':>8}{'calls':>8}{'per call':>10}{'/ call':>8}"
            f"{'quiet':>9}{'rolling':>9}{'ratio':>7}{'ms':>7}{'/ s':>7}",
            flush=True,
        )
    wrong: list[str] = []
    for shell in options.shell or ("sync", "aio"):
        for how in options.how or ("SIGTERM", "SIGKILL"):
            for codes in options.codes or (CODES if how == "SIGTERM" else CODES[:1]):
                for peer in peers:
                    found = measured(shell, peer, how, codes.split(","), options)
                    print(json.dumps(found), flush=True) if options.json else show(found)
                    wrong += broken(found)
    for what in wrong:
        print(what, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
