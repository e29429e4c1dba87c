"""Cost of a call compared with other clients: CPU of the caller per call and latency, all in one run.

usage: python benchmarks/calls.py [--rounds N] [--load NAME] [--variant NAME] [--json FILE] [--plot FILE] [--quick]

Three servers run in processes of their own. Each round runs a batch of every variant in a new random order, so that
machine noise affects all variants alike; the ratio of a round is to the bare channel of that round. A server's
placement by the kernel makes a difference of some per cent for its lifetime, so all servers, sidecars and channels are
recreated after some rounds. Prints medians, the ratio of CPU with its 95 % interval, and percentiles of the latency of
all rounds. CPU is that of the calling process, plus the sidecar's where there is one, without the servers'. So a slow
server shows only in the latency, not in the ratio.
"""

import argparse
import asyncio
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

from call_batches import LOADS, Batch, Load, batch, batch_async
from call_variants import BARE, MESH, NAMES, THREE_BY_HAND, TRACED, Variant, variants
from conditions import conditions
from figures import interval, percentile
from plot import plot

from meshlib.testing import ProcessServer

BUDGETS = {
    # (load, variant, beside): at most
    ("unary, 1 thread", MESH, BARE): 1.00,
    ("unary, 1 thread", MESH, "bare, our arguments"): 1.03,
    ("unary, 1 thread", TRACED, BARE): 1.30,
}
"""The budgets of CPU per call."""

BESIDE = (BARE, "bare, our arguments", "three bare in turn", THREE_BY_HAND)
"""Baselines of the comparison."""

SETS = 10
"""How often servers and channels are recreated."""

Found = dict[str, list[Batch]]


def run_sync(load: Load, made: list[Variant], rounds: int, calls: int, found: Found) -> None:
    """Run the rounds of one load; the first connects and does not count."""
    with ThreadPoolExecutor(load.callers) as pool:
        for turn in range(rounds + 1):
            for variant in Random(turn).sample(made, len(made)):
                measured = batch(load, variant, pool, calls)
                if turn:
                    found.setdefault(variant.name, []).append(measured)


async def run_async(load: Load, addresses: list[str], wanted: list[str], rounds: int, calls: int, found: Found) -> None:
    """Run the rounds in asyncio, where channels belong to the loop."""
    with ExitStack() as stack:
        made = [variant for variant in variants("aio", addresses, stack) if variant.name in wanted]
        for turn in range(rounds + 1):
            for variant in Random(turn).sample(made, len(made)):
                measured = await batch_async(load, variant, calls)
                if turn:
                    found.setdefault(variant.name, []).append(measured)
        for variant in made:
            for channel in variant.channels:
                await channel.close()


def row(measured: list[Batch], beside: dict[str, list[Batch]]) -> dict[str, Any]:
    """Return the figures of one variant."""
    took = sorted(seconds for each in measured for seconds in each.seconds)
    figures: dict[str, Any] = {
        "cpu_us": statistics.median(each.cpu for each in measured) * 1e6,
        "of_that_sidecar_us": statistics.fmean(each.sidecar for each in measured) * 1e6,
        "calls_per_second": statistics.median(each.rate for each in measured),
        "p50_us": percentile(took, 0.5) * 1e6,
        "p99_us": percentile(took, 0.99) * 1e6,
        "p999_us": percentile(took, 0.999) * 1e6,
    }
    for name, other in beside.items():
        ratios = [mine.cpu / theirs.cpu for mine, theirs in zip(measured, other, strict=True)]
        figures.setdefault("ratio", {})[name] = interval(ratios)
    return figures


def measure(loads: list[Load], wanted: list[str] | None, rounds: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Return the figures by load and variant."""
    found: dict[str, Found] = {load.name: {} for load in loads}
    sets = min(SETS, rounds)
    for turn in range(sets):
        run_set(loads, wanted, rounds // sets + (turn < rounds % sets), quick, found)
    tables: dict[str, dict[str, Any]] = {}
    for load, measured in found.items():
        beside = {name: measured[name] for name in BESIDE if name in measured}
        tables[load] = {name: row(measured[name], beside) for name in NAMES if name in measured}
    return tables


def run_set(loads: list[Load], wanted: list[str] | None, rounds: int, quick: bool, found: dict[str, Found]) -> None:
    """Run rounds of all loads on new servers and channels."""
    with ExitStack() as stack:
        addresses = [stack.enter_context(ProcessServer(workers=64)).address for _ in range(3)]
        made = variants("sync", addresses, stack)
        for load in loads:
            names = {BARE, *(name for name in wanted or load.variants if name in load.variants)}
            calls = load.callers * (2 if quick else max(1, load.calls // load.callers))
            if load.shell == "sync":
                chosen = [variant for variant in made if variant.name in names]
                run_sync(load, chosen, rounds, calls, found[load.name])
            else:
                asyncio.run(run_async(load, addresses, sorted(names), rounds, calls, found[load.name]))


def budgets(tables: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Check the budgets."""
    told = []
    for (load, name, beside), most in BUDGETS.items():
        figures = tables.get(load, {}).get(name)
        if figures is not None and beside in figures["ratio"]:
            ratio, low, high = figures["ratio"][beside]
            verdict = "met" if ratio <= most else "not met"
            if low <= most < high:
                verdict += ", within the noise"
            told.append({"what": f"{name} / {beside}", "most": most, "found": (ratio, low, high), "verdict": verdict})
    return told


def show(tables: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    for load, rows in tables.items():
        print(
            f"\n{load:<32}{'CPU us':>8}{'ratio':>7}  95 %         {'calls/s':>8}{'p50 us':>8}{'p99 us':>8}{'p99.9':>8}"
        )
        for name, figures in rows.items():
            ratio, low, high = figures["ratio"][BARE]
            sidecar = figures["of_that_sidecar_us"]
            print(
                f"{name:<32}{figures['cpu_us']:>8.0f}{ratio:>7.3f}  {low:.3f}-{high:.3f}  "
                f"{figures['calls_per_second']:>8.0f}{figures['p50_us']:>8.0f}{figures['p99_us']:>8.0f}"
                f"{figures['p999_us']:>8.0f}{f'  {sidecar:.0f} us of it the sidecar' if sidecar else ''}"
            )
    for told in budgets(tables):
        ratio, low, high = told["found"]
        print(f"\n{told['what']}: {ratio:.3f} ({low:.3f}-{high:.3f}), at most {told['most']:.2f}: {told['verdict']}")


def main() -> None:
    """Run the benchmark, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--load", action="append", choices=[load.name for load in LOADS], help="default: all")
    parser.add_argument("--variant", action="append", choices=list(NAMES), help="beside the bare one (default: all)")
    parser.add_argument("--quick", action="store_true", help="two rounds of a few calls: whether it works")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--plot", type=Path, help="draw the first load there, as SVG")
    options = parser.parse_args()
    loads = [load for load in LOADS if not options.load or load.name in options.load]
    rounds = 2 if options.quick else options.rounds
    about = conditions()
    print(*about.values(), f"{rounds} rounds", sep="\n")
    tables = measure(loads, options.variant, rounds, options.quick)
    show(tables)
    if options.json is not None:
        told = {"conditions": about, "rounds": rounds, "variants": NAMES, "tables": tables, "budgets": budgets(tables)}
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if options.plot is not None:
        first = next(iter(tables))
        options.plot.write_text(plot(f"CPU per call, {first}", {k: v["ratio"][BARE] for k, v in tables[first].items()}))


if __name__ == "__main__":
    main()
