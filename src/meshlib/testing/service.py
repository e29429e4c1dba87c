"""Redirection of a service to test servers, for the fixture ``mesh_service``."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from threading import Event

from meshlib._aio import control as aio_control
from meshlib._control.shared import Resolutions
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.target import parse_target
from meshlib._sync import control as sync_control

__all__ = ["host_of", "redirect"]

_TTL = 30.0
"""Seconds until channels read the environment again."""

_SECONDS = 10.0


def host_of(name: str) -> str:
    """Return the host of a target, which the environment can override.

    Raises:
        ValueError: there is none: the target is an address, a list or a socket.
    """
    target = parse_target(name, any_scheme=True)
    if not target.host or target.is_ip or target.entries or target.native:
        raise ValueError(f"{name!r} does not name a service; use a name such as svc-a")
    return target.host


def redirect(host: str, addresses: Sequence[str]) -> None:
    """Redirect the calls for ``host`` to ``addresses``, on the channels that this process already uses.

    Set the environment variable first: it redirects all later channels. Returns when sync channels are redirected.
    Channels of an event loop are redirected before other callbacks run on it.
    """
    resolution = Resolution(endpoints=tuple(Endpoint(address=address) for address in addresses), ttl=_TTL)
    process = sync_control.current()
    loop, resolutions = process.loop, process.resolutions
    if loop is not None and resolutions is not None:
        done = Event()
        with suppress(RuntimeError):  # the last channel was closed meanwhile
            loop.call_soon_threadsafe(_take, resolutions, host, resolution, done)
            if not done.wait(_SECONDS):
                raise TimeoutError(f"the channels to {host} did not apply the endpoints within {_SECONDS:g} s")
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    for each, table in aio_control.current().loops:
        if each is running:
            table.take(host, resolution)
        else:
            with suppress(RuntimeError):  # the loop is closed
                each.call_soon_threadsafe(table.take, host, resolution)


def _take(resolutions: Resolutions, host: str, resolution: Resolution, done: Event) -> None:
    try:
        resolutions.take(host, resolution)
    finally:
        done.set()
