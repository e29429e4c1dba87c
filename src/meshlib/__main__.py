"""``python -m meshlib resolve NAME``: what a channel to NAME would find, and how it went about it."""

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import time
from typing import Any

from meshlib._control.plugins import REGISTRY
from meshlib._control.shared import Resolutions, SharedResolution
from meshlib._control.sources import source
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.errors import ConfigError
from meshlib._core.target import parse_target

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status: 0 found, 1 not found, 2 the arguments make no sense."""
    parser = argparse.ArgumentParser(prog="python -m meshlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    resolve = commands.add_parser("resolve", help="look a target up, as a channel to it would")
    resolve.add_argument("name", help='a target, such as "svc-a" or "srv:///_grpc._tcp.svc-a.example.com"')
    resolve.add_argument("--json", action="store_true", help="one JSON object per answer")
    resolve.add_argument("--watch", action="store_true", help="go on and print every change, until interrupted")
    resolve.add_argument("--secure", action="store_true", help="as with credentials: the default port is 443")
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(_resolve(options))
    except ConfigError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


async def _resolve(options: argparse.Namespace) -> int:
    asked = source(parse_target(options.name, secure=options.secure, schemes=REGISTRY), DnsPolicy())
    resolutions = Resolutions(clock=time.monotonic, rng=random.Random())
    shared = resolutions.get(asked)
    news: asyncio.Queue[bool] = asyncio.Queue()
    unsubscribe = shared.subscribe(lambda _: news.put_nowait(True), lambda _: news.put_nowait(False))
    try:
        found = await news.get()
        _print(shared, found, as_json=options.json)
        while options.watch:
            found = await news.get()
            _print(shared, found, as_json=options.json)
    finally:
        unsubscribe()
        await resolutions.aclose()
    return 0 if found else 1


def _print(shared: SharedResolution, found: bool, *, as_json: bool) -> None:
    resolution = shared.resolution
    endpoints = resolution.endpoints if resolution is not None else ()
    ttl = resolution.ttl if resolution is not None and found else None
    if as_json:
        told: dict[str, Any] = {
            "target": shared.source.target.text,
            "resolver": shared.source.name,
            "error": None if shared.error is None else shared.error.reason,
            "ttl": ttl,
            "endpoints": [dataclasses.asdict(endpoint) for endpoint in endpoints],
            "steps": [dataclasses.asdict(step) for step in shared.steps],
        }
        print(json.dumps(told), flush=True)
        return
    fresh = "" if ttl is None else f"  ttl {ttl:g} s"
    print(f"{shared.source.target.text}  resolver {shared.source.name}{fresh}")
    for step in shared.steps:
        print(f"  {step}")
    for endpoint in endpoints:
        addresses = " or ".join((endpoint.address, *endpoint.alternatives))
        print(f"  -> {addresses}  priority {endpoint.priority}  weight {endpoint.weight}")
    if shared.error is not None:
        kept = f"; {len(endpoints)} endpoints stay from before" if endpoints else ""
        print(f"  not resolved: {shared.error.reason}{kept}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
