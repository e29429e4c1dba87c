"""The pytest fixtures ``mesh_servers`` and ``mesh_dns``.

pytest loads this in every environment that has meshlib: what a fixture needs is imported by the fixture.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
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
