"""Subscriptions to targets, with answers that can be awaited one by one."""

import asyncio
from collections.abc import Callable

from meshlib._control.shared import SharedResolution
from meshlib._control.system import SystemFiles
from meshlib._core.endpoint import Endpoint
from meshlib.testing import DnsServer

NAME = "svc-a.mesh.test"
SRV = f"_grpc._tcp.{NAME}"
DEADLINE = 20.0

Ask = Callable[..., "Asked"]
Files = Callable[..., SystemFiles]


class Asked:
    """A subscription with answers that can be awaited one by one."""

    def __init__(self, shared: SharedResolution) -> None:
        self.shared = shared
        self._heard: asyncio.Queue[tuple[Endpoint, ...] | str] = asyncio.Queue()
        self.leave = shared.subscribe(lambda found: self._heard.put_nowait(found.endpoints), self._heard.put_nowait)

    async def next(self) -> tuple[Endpoint, ...] | str:
        """The next delivery: endpoints or a failure."""
        return await asyncio.wait_for(self._heard.get(), DEADLINE)

    async def endpoints(self) -> list[tuple[str, int, int]]:
        """Address, weight and priority of the next endpoints."""
        found = await self.next()
        assert not isinstance(found, str), found
        return sorted((endpoint.address, endpoint.weight, endpoint.priority) for endpoint in found)

    async def addresses(self) -> list[str]:
        """Addresses of the next endpoints."""
        return [address for address, _, _ in await self.endpoints()]

    async def failure(self) -> str:
        """The next failure."""
        told = await self.next()
        assert isinstance(told, str), told
        return told

    def nothing_more(self) -> bool:
        """Whether every delivery has been read."""
        return self._heard.empty()


def types(server: DnsServer) -> list[str]:
    """The queried types."""
    return [query.type for query in server.queries]


def refreshing(server: DnsServer, **more: object) -> dict[str, object]:
    """A policy that queries ``server`` so often that a test need not wait."""
    return {"nameservers": (server.address,), "min_ttl": 0.05, "max_ttl": 0.05, **more}


FAULTS = {
    "SERVFAIL": {"rcode": "SERVFAIL"},
    "NXDOMAIN": {"rcode": "NXDOMAIN"},
    "REFUSED": {"rcode": "REFUSED"},
    "empty": {"empty": True},
    "silence": {"drop": True},
    "forged": {"wrong_id": True},
}
