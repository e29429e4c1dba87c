"""The pytest fixtures ``mesh_service``, ``mesh_servers`` and ``mesh_dns``.

pytest loads this module in every environment that has meshlib, so each fixture imports its own dependencies.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import grpc

    from meshlib.testing.dns import DnsServer
    from meshlib.testing.server import Server


@pytest.fixture
def mesh_dns() -> Iterator["DnsServer"]:
    """A ``meshlib.testing.DnsServer`` for this test: ``meshlib.channel(f"dns://{mesh_dns.address}/svc-a.mesh.test")``."""
    from meshlib.testing.dns import DnsServer

    with DnsServer() as server:
        yield server


@pytest.fixture
def mesh_servers() -> Iterator[Callable[..., list["Server"]]]:
    """Start servers that are closed after the test: ``a, b, c = mesh_servers(3)``; arguments: see ``servers``."""
    from meshlib.testing.server import servers

    with ExitStack() as stack:

        def start(n: int, **options: Any) -> list["Server"]:
            return stack.enter_context(servers(n, **options))

        yield start


@pytest.fixture
def mesh_service(
    mesh_servers: Callable[..., list["Server"]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list["Server"]]:
    """Replace a service by test servers: ``a, b = mesh_service("svc-a", 2, add=add_greeter)``.

    Until the test ends every channel to that name calls them, in this process and its child processes: channels of the
    test, of the application under test, and channels in use before. ``add`` registers servicers, as in
    ``Server(add=)``; further options are those of ``servers``.
    """

    def start(
        name: str, n: int = 1, add: Callable[["grpc.Server"], object] | None = None, **options: Any
    ) -> list["Server"]:
        from meshlib._core.discovery.environment import variable
        from meshlib.testing.service import host_of, redirect

        host = host_of(name)
        started = mesh_servers(n, **{"name": host, **options}, add=add)
        addresses = [server.address for server in started]
        monkeypatch.setenv(variable(host), ",".join(addresses))
        redirect(host, addresses)
        return started

    return start
