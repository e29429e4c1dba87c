"""Python instructions of a blocking call by package, for the calls of ``calls.py``.

usage: python benchmarks/instructions.py [--json FILE] [--quick]

Counts instructions on the calling thread, after a warm-up; of several calls the cheapest counts. The work of C-core and
other extensions is not Python and not counted.
"""

import argparse
import json
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

from call_variants import NAMES, variants
from conditions import conditions
from counting import least

import meshlib
from meshlib.testing import ProcessServer, echo

PACKAGES = ("meshlib", "grpc", "opentelemetry")
MESHLIB = Path(meshlib.__file__).parent
OTHER = "other"
"""The standard library, and the loop of the variant itself."""
WARM_UP, CALLS = 50, 20
LEFT_OUT = "Envoy sidecar"
"""Omitted: in this process it equals one bare channel."""


@cache
def package(file: str) -> str:
    """Return the package of a file."""
    if Path(file).is_relative_to(MESHLIB):
        return "meshlib"
    _, installed, inside = file.rpartition("site-packages/")
    name = inside.partition("/")[0] if installed else ""
    return name if name in PACKAGES else OTHER


def owner(file: str) -> str | None:
    """Return the package of a file, None for this one."""
    return None if file == __file__ else package(file)


def main() -> None:
    """Run the benchmark, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the counts there as well")
    parser.add_argument("--quick", action="store_true", help="one call of each: whether it works")
    options = parser.parse_args()
    about = conditions()
    print(*about.values(), sep="\n")
    print(f"\n{'':<32}", *(f"{name:>14}" for name in (*PACKAGES, OTHER, "all")))
    rows: dict[str, dict[str, int]] = {}
    with ExitStack() as stack:
        addresses = [stack.enter_context(ProcessServer()).address for _ in range(3)]
        for variant in variants("sync", addresses, stack):
            if variant.name == LEFT_OUT:
                continue
            call = partial(variant.calls("unary_unary", echo.UNARY), b"x")
            found = least(call, owner, warm_up=WARM_UP, calls=1 if options.quick else CALLS)
            rows[variant.name] = {name: found[name] for name in (*PACKAGES, OTHER)}
            print(f"{variant.name:<32}", *(f"{count:>14}" for count in (*rows[variant.name].values(), found.total())))
    if options.json is not None:
        what = {name: NAMES[name] for name in rows}
        options.json.write_text(json.dumps({"conditions": about, "variants": what, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
