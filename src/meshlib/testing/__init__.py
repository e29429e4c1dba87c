"""Test beds for applications that use meshlib, and for meshlib itself: nothing here is a mock.

* ``Server``, ``servers(n)``: real grpc servers in this process that fail on request and count what they did; ``echo``
  is the service they come with, and your own servicers may be added.
* ``ProcessServer``: the same in a process of its own, for kill -9, SIGSTOP and SIGTERM.
* ``DnsServer``: a name server in this process, with every fault that a resolver must survive.
* ``hosts``, ``shares``: a balancer alone on the bench, without servers.
* ``flush_logs``: waits until log handlers have had the records that are handled on the log thread.
* The pytest fixtures ``mesh_service``, ``mesh_servers`` and ``mesh_dns`` (``meshlib.testing.plugin``), wherever meshlib
  is installed.

Each is imported when it is first named, so that the pytest plugin costs nothing where it is not used.
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
