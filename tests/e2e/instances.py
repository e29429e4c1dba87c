"""Instances of a service as a resolver names them, and the connections to them."""

from pathlib import Path
from typing import Any

from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import ProcessServer, Server


class Scripted:
    """A resolver with scripted endpoints, returned at the channel's next resolution."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.endpoints = endpoints

    def resolve(self, previous: Resolution | None) -> Resolution:
        return Resolution(endpoints=self.endpoints)


def endpoint(server: Server | ProcessServer, **facts: Any) -> Endpoint:
    """The resolver's endpoint for ``server``."""
    return Endpoint(address=server.address, **facts)


def static(*all_servers: Server | ProcessServer) -> str:
    """The target that lists the servers."""
    return "static:///" + ",".join(server.address for server in all_servers)


def connections(server: Server) -> int:
    """Established TCP connections to ``server``, as the kernel counts them."""
    lines = [line for table in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{table}").read_text().splitlines()]
    return sum(line.split()[2].endswith(f":{server.port:04X}") and line.split()[3] == "01" for line in lines)
