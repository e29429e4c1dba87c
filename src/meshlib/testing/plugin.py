"""The pytest fixtures ``mesh_service``, ``mesh_servers`` and ``mesh_dns``.

pytest loads this in every environment that has meshlib: what a fixture needs is imported by the fixture.
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
    """A ``meshlib.testing.DnsServer`` of this test's own: ``meshlib.channel(f"dns://{mesh_dns.address}/svc-a.mesh.test")``."""
    from meshlib.testing.dns import DnsServer

    with DnsServer() as server:
        yield server


@pytest.fixture
def mesh_servers() -> Iterator[Callable[..., list["Server"]]]:
    """Starts servers that end with the test: ``a, b, c = mesh_servers(3)``; takes what ``servers`` takes."""
    from meshlib.testing.server import servers

    with ExitStack() as stack:

        def start(n: int, **options: Any) -> list["Server"]:
            return stack.enter_context(servers(n, **options))

        yield start


@pytest.fixture
def mesh_service(
    mesh_servers: Callable[..., list["Server"]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list["Server"]]:
    """Servers in the place of a service: ``a, b = mesh_service("svc-a", 2, add=add_greeter)``.

    Every channel to that name, in this process and in those it starts, calls them until the test ends, whether it is
    made by the test, by the application under test, or was in use before. ``add`` registers servicers, as in
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
