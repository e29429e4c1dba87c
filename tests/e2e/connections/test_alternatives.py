"""One host with two addresses, tried as Happy Eyeballs by the real C-core (gRFC A61)."""

import socket
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

import meshlib
from meshlib import aio
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import DnsServer, Server, echo

SOON = 10.0
V4, V6 = "127.0.0.1", "[::1]"


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is free on both loopback addresses, and stays reserved for servers that share it."""
    for _ in range(50):
        with socket.socket() as v4, socket.socket(socket.AF_INET6) as v6:
            for sock in (v4, v6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            v4.bind(("127.0.0.1", 0))
            try:
                v6.bind(("::1", v4.getsockname()[1]))
            except OSError:
                continue
            for sock in (v4, v6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            yield v4.getsockname()[1]
            return
    pytest.fail("no port was free on both loopback addresses")


@pytest.fixture
def dns(port: int) -> Iterator[DnsServer]:
    """A service with one instance that has an address of each family."""
    with DnsServer() as server:
        server.add("a.mesh.test", "A", "127.0.0.1")
        server.add("a.mesh.test", "AAAA", "::1")
        server.add("_grpc._tcp.svc-a.mesh.test", "SRV", f"0 1 {port} a.mesh.test")
        yield server


Channel = Callable[[str], grpc.Channel]


def targets(dns: DnsServer, port: int) -> list[str]:
    """The possible targets of that instance."""
    return [
        f"localhost:{port}",
        f"static:///localhost:{port}",
        f"static:///a.mesh.test.:{port}",
        f"srv://{dns.address}/_grpc._tcp.svc-a.mesh.test",
    ]


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize(("listens", "peer"), [(V4, "ipv4:127.0.0.1:"), (V6, "ipv6:%5B::1%5D:")])
def test_a_server_on_one_of_two_addresses(dns: DnsServer, port: int, way: int, listens: str, peer: str) -> None:
    """The call is answered whichever it is, and the server sees the family that it listens on."""
    policy = meshlib.DnsPolicy(nameservers=(dns.address,))
    with Server(f"{listens}:{port}") as server:
        with meshlib.channel(targets(dns, port)[way], dns=policy) as channel:
            assert channel.unary_unary(echo.UNARY)(b"x", timeout=SOON) == b"x"
            (host,) = channel.mesh.snapshot().hosts
            assert host.address == f"127.0.0.1:{port}"
        assert [call.peer[: len(peer)] for call in server.received] == [peer]


@pytest.mark.parametrize("listens", [V4, V6])
async def test_a_server_on_one_of_two_addresses_in_asyncio(dns: DnsServer, port: int, listens: str) -> None:
    """The same in asyncio."""
    with Server(f"{listens}:{port}"):
        async with aio.channel(f"localhost:{port}") as channel:
            assert await channel.unary_unary(echo.UNARY)(b"x", timeout=SOON) == b"x"


def test_the_other_address_takes_over(port: int) -> None:
    """When the connected address dies, the host continues at the other, and back."""
    with (
        Server(f"{V4}:{port}", name="v4") as v4,
        Server(f"{V6}:{port}", name="v6") as v6,
        meshlib.channel(f"localhost:{port}") as channel,
    ):
        call = channel.unary_unary(echo.UNARY)
        for _ in range(5):
            call(b"x", timeout=SOON)
        assert (v4.calls[echo.UNARY], v6.calls[echo.UNARY]) == (5, 0), "one connection, not one to each"
        v4.stop()
        call(b"x", timeout=SOON)
        assert v6.calls[echo.UNARY] == 1
        v4.start()
        v6.stop()
        call(b"x", timeout=SOON)
        assert v4.calls[echo.UNARY] == 6


class Resolver:
    """A resolver that returns two addresses of one instance, the dead one first."""

    def __init__(self, port: int) -> None:
        self.port = port

    def resolve(self, previous: Resolution | None) -> Resolution:
        endpoint = Endpoint(address=f"[::1]:{self.port}", alternatives=(f"127.0.0.1:{self.port}",))
        return Resolution(endpoints=(endpoint,))


def test_a_resolver_of_ones_own(port: int) -> None:
    """A custom resolver may return alternatives in either order; user options do not make two hosts of one."""
    with (
        Server(f"{V4}:{port}") as server,
        meshlib.channel("svc-a", resolver=Resolver(port), options=[("grpc.lb_policy_name", "round_robin")]) as channel,
    ):
        for _ in range(3):
            assert channel.unary_unary(echo.UNARY)(b"x", timeout=SOON) == b"x"
        assert len({call.peer for call in server.received}) == 1


def test_records_that_become_two_addresses(dns: DnsServer, port: int) -> None:
    """A host that gets a second address is dialled at both; no call fails meanwhile."""
    dns.remove("a.mesh.test", "A")
    policy = meshlib.DnsPolicy(min_ttl=0.05, max_ttl=0.05)
    with (
        Server(f"{V4}:{port}") as v4,
        Server(f"{V6}:{port}") as v6,
        meshlib.channel(f"srv://{dns.address}/_grpc._tcp.svc-a.mesh.test", dns=policy) as channel,
    ):
        call = channel.unary_unary(echo.UNARY)
        call(b"x", timeout=SOON)
        assert v6.calls[echo.UNARY] == 1
        dns.add("a.mesh.test", "A", "127.0.0.1")
        end = time.monotonic() + SOON
        while not v4.calls[echo.UNARY]:
            assert time.monotonic() < end
            call(b"x", timeout=SOON)
        v4.stop()
        call(b"x", timeout=SOON)
