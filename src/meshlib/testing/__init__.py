"""Test servers and tools for applications that use meshlib. Nothing here is a mock.

* ``Server``, ``servers(n)``: real grpc servers in this process that fail on request and count their calls. They serve
  ``echo`` and your own servicers.
* ``ProcessServer``: an echo server in its own process, for kill -9, SIGSTOP and SIGTERM.
* ``DnsServer``: a name server in this process, with every fault that a resolver must handle.
* ``hosts``, ``shares``: simulation of a balancer without servers.
* ``flush_logs``: waits until log handlers have processed the records of the log thread.
* The pytest fixtures ``mesh_service``, ``mesh_servers`` and ``mesh_dns`` (``meshlib.testing.plugin``), available
  wherever meshlib is installed.

Each is imported at first use, so that the pytest plugin costs nothing when unused.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshlib.testing import echo
    from meshlib.testing.balancing import SimulatedCall, SimulatedHost, hosts, shares
    from meshlib.testing.dns import DnsServer, Query
    from meshlib.testing.logs import flush_logs
    from meshlib.testing.processes import ProcessServer
    from meshlib.testing.server import Server, ServerTls, servers
    from meshlib.testing.traffic import Received

    Tls = ServerTls  # deprecated

__all__ = [
    # servers
    "Server",
    "servers",
    "ProcessServer",
    "ServerTls",
    "Received",
    "echo",
    # names
    "DnsServer",
    "Query",
    # logs
    "flush_logs",
    # balancers
    "hosts",
    "shares",
    "SimulatedHost",
    "SimulatedCall",
]

_HOMES = {
    "Server": "server",
    "servers": "server",
    "ProcessServer": "processes",
    "ServerTls": "server",
    "Received": "traffic",
    "DnsServer": "dns",
    "Query": "dns",
    "flush_logs": "logs",
    "hosts": "balancing",
    "shares": "balancing",
    "SimulatedHost": "balancing",
    "SimulatedCall": "balancing",
}


def __getattr__(name: str) -> object:
    if name == "echo":
        return import_module("meshlib.testing.echo")
    if name == "Tls":
        warnings.warn("meshlib.testing.Tls is deprecated; use ServerTls", DeprecationWarning, stacklevel=2)
        name = "ServerTls"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(f"meshlib.testing.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
