"""``python -m meshlib resolve NAME``: show what a channel to NAME resolves to, and how."""

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from meshlib._aio.subchannels import Subchannel
from meshlib._control.arguments import ChannelArguments
from meshlib._control.plugins import REGISTRY
from meshlib._control.settings import Settings, settle
from meshlib._control.shared import Resolutions, SharedResolution
from meshlib._control.sources import source
from meshlib._core.connectivity import READY, TRANSIENT_FAILURE
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.endpoint import Endpoint
from meshlib._core.errors import ConfigError
from meshlib._core.host import HostEntry
from meshlib._core.target import parse_target

__all__ = ["main"]


TIMEOUT = 10.0
"""Seconds, beyond the time-out of a connection attempt."""
PAUSE = 0.002


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status: 0 found, and connected if asked; 1 not; 2 invalid arguments."""
    parser = argparse.ArgumentParser(prog="python -m meshlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    resolve = commands.add_parser("resolve", help="resolve a target as a channel does")
    resolve.add_argument("name", help='a target, such as "svc-a" or "srv:///_grpc._tcp.svc-a.example.com"')
    resolve.add_argument("--json", action="store_true", help="print one JSON object per resolution")
    resolve.add_argument("--watch", action="store_true", help="keep running and print every change, until interrupted")
    resolve.add_argument(
        "--secure", action="store_true", help="resolve as a channel with credentials does: the default port is 443"
    )
    resolve.add_argument("--connect", action="store_true", help="connect to each host and print the result")
    resolve.add_argument(
        "--ca", metavar="FILE", help="with --connect --secure: PEM file of the CAs to trust; default: grpc's"
    )
    resolve.add_argument(
        "--cert", metavar="FILE", help="with --connect --secure: PEM file of the client's certificate chain"
    )
    resolve.add_argument("--key", metavar="FILE", help="with --cert: PEM file of the client's private key")
    resolve.add_argument(
        "--authority", metavar="NAME", help="with --connect: :authority and the name that TLS verifies"
    )
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
    settings = _settings(options)
    resolutions = Resolutions(clock=time.monotonic, rng=random.Random())
    shared = resolutions.get(asked)
    news: asyncio.Queue[bool] = asyncio.Queue()
    unsubscribe = shared.subscribe(lambda _: news.put_nowait(True), lambda _: news.put_nowait(False))
    try:
        while True:
            found = await news.get()
            dialled = await _dial_all(shared, settings)
            _print(shared, found, dialled, as_json=options.json)
            if not options.watch:
                break
    finally:
        unsubscribe()
        await resolutions.aclose()
    return 0 if found and not any(each.error for each in dialled or ()) else 1


def _settings(options: argparse.Namespace) -> Settings | None:
    """Return the settings of the channel for ``--connect``; None without that option.

    Raises:
        ConfigError: the options conflict, or a file cannot be read.
    """
    tls = {name: getattr(options, name) for name in ("ca", "cert", "key")}
    for name, given in (*tls.items(), ("authority", options.authority)):
        if given is not None and not options.connect:
            raise ConfigError(f"--{name}", given, "needs --connect")
        if given is not None and name in tls and not options.secure:
            raise ConfigError(f"--{name}", given, "needs --secure")
    if not options.connect:
        return None
    if (options.cert is None) != (options.key is None):
        raise ConfigError("--cert", options.cert, "needs --key, and --key needs --cert")
    credentials = None
    if options.secure:
        ca, key, cert = (_read(f"--{name}", tls[name]) for name in ("ca", "key", "cert"))
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
    given = [] if options.authority is None else [("grpc.default_authority", options.authority)]
    return settle(ChannelArguments(options.name, credentials=credentials, options=given), aio=True)


def _read(option: str, path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(option, path, f"cannot be read: {error.strerror}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Dialled:
    """The result.

    Args:
        endpoint: where to.
        seconds: how long it took.
        error: why it could not be connected; empty: it could.
    """

    endpoint: Endpoint
    seconds: float
    error: str


async def _dial(endpoint: Endpoint, settings: Settings) -> _Dialled:
    """Connects to ``endpoint`` as a channel of ``settings`` would."""
    now = asyncio.get_running_loop().time
    began = now()
    subchannel = Subchannel(HostEntry(endpoint), settings.config.cluster)
    try:
        while (state := subchannel.state(True)) not in (READY, TRANSIENT_FAILURE):
            if now() - began > TIMEOUT:
                return _Dialled(endpoint=endpoint, seconds=now() - began, error=f"no connection within {TIMEOUT:g} s")
            await asyncio.sleep(PAUSE)
        error = ""
        seconds = now() - began
        if state == TRANSIENT_FAILURE:
            told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            call = subchannel.probe(told.set_result)
            error = await told or "the connection failed"
            del call
        return _Dialled(endpoint=endpoint, seconds=seconds, error=error)
    finally:
        subchannel.close()


async def _dial_all(shared: SharedResolution, settings: Settings | None) -> list[_Dialled] | None:
    """Connects to all endpoints at the same time; None without ``--connect``."""
    if settings is None:
        return None
    resolution = shared.resolution
    endpoints = resolution.endpoints if resolution is not None else ()
    return await asyncio.gather(*(_dial(endpoint, settings) for endpoint in endpoints))


def _print(shared: SharedResolution, found: bool, dialled: list[_Dialled] | None, *, as_json: bool) -> None:
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
        if dialled is not None:
            told["connections"] = [
                {"address": each.endpoint.address, "seconds": round(each.seconds, 6), "error": each.error or None}
                for each in dialled
            ]
        print(json.dumps(told), flush=True)
        return
    fresh = "" if ttl is None else f"  ttl {ttl:g} s"
    print(f"{shared.source.target.text}  resolver {shared.source.name}{fresh}")
    for step in shared.steps:
        print(f"  {step}")
    for endpoint in endpoints:
        addresses = " or ".join((endpoint.address, *endpoint.alternatives))
        print(f"  -> {addresses}  priority {endpoint.priority}  weight {endpoint.weight}")
    for each in dialled or ():
        became = each.error or f"connected in {each.seconds * 1000:.0f} ms"
        print(f"  {'!!' if each.error else 'ok'} {each.endpoint.address}  {became}")
    if shared.error is not None:
        kept = f"; {len(endpoints)} endpoints kept" if endpoints else ""
        print(f"  resolution failed: {shared.error.reason}{kept}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
