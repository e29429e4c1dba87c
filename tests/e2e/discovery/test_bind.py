"""Discovery against a real BIND 9: its real answers, and its outages."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.e2e.bind import Bind

from meshlib._control.shared import Resolutions, SharedResolution
from meshlib._control.sources import source
from meshlib._control.system import SystemFiles
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.endpoint import Endpoint
from meshlib._core.target import parse_target

NAME = "svc-a.mesh.test"
SRV = f"_grpc._tcp.{NAME}"
DEADLINE = 20.0

Told = asyncio.Queue[tuple[Endpoint, ...] | str]
Ask = Callable[..., tuple[SharedResolution, Told]]


@pytest.fixture
def bind(require_real: Callable[[str, str], Path], tmp_path: Path) -> Iterator[Bind]:
    """A name server of this test's own."""
    folder = tmp_path / "named"
    folder.mkdir()
    with Bind(require_real("named", "bind9"), folder) as server:
        yield server


@pytest.fixture
async def ask(bind: Bind, rng: Random, tmp_path: Path) -> AsyncIterator[Ask]:
    """Subscribe to a target with the defaults, except for the name server and the test's options."""
    (tmp_path / "resolv.conf").write_text("search mesh.test\n")
    files = SystemFiles(tmp_path / "resolv.conf", tmp_path / "hosts")
    table = Resolutions(clock=time.monotonic, rng=rng, environ={}, files=files)
    leaving = []

    def subscribe(text: str, **policy: object) -> tuple[SharedResolution, Told]:
        told: Told = asyncio.Queue()
        nameservers = {"nameservers": (bind.address,), **policy}
        shared = table.get(source(parse_target(text), DnsPolicy(**nameservers)))  # type: ignore[arg-type]
        leaving.append(shared.subscribe(lambda found: told.put_nowait(found.endpoints), told.put_nowait))
        return shared, told

    yield subscribe
    for leave in leaving:
        leave()
    await table.aclose()


async def next_of(told: Told) -> list[tuple[str, int, int]]:
    """The next delivered endpoints: address, weight, priority."""
    found = await asyncio.wait_for(told.get(), DEADLINE)
    assert not isinstance(found, str), found
    return sorted((endpoint.address, endpoint.weight, endpoint.priority) for endpoint in found)


async def failure_of(told: Told) -> str:
    """The next delivered failure."""
    found = await asyncio.wait_for(told.get(), DEADLINE)
    assert isinstance(found, str), found
    return found


async def test_a_service_that_changes(bind: Bind, ask: Ask) -> None:
    """Records that are added, changed and removed are seen at the TTL of one second, with the defaults."""
    for n, host in enumerate("abc", 11):
        bind.add(f"{host}.mesh.test", "A", f"127.0.0.{n}")
    bind.add(SRV, "SRV", "0 3 50051 a.mesh.test", "0 1 50051 b.mesh.test")
    _, told = ask("svc-a")
    assert await next_of(told) == [("127.0.0.11:50051", 3, 0), ("127.0.0.12:50051", 1, 0)]
    bind.add(SRV, "SRV", "1 0 50051 c.mesh.test")
    assert await next_of(told) == [
        ("127.0.0.11:50051", 3, 0),
        ("127.0.0.12:50051", 1, 0),
        ("127.0.0.13:50051", 1, 1),
    ]
    bind.remove(SRV, "SRV", "0 3 50051 a.mesh.test", "1 0 50051 c.mesh.test")
    assert await next_of(told) == [("127.0.0.12:50051", 1, 0)]


@pytest.mark.parametrize("number", [20, 29, 60])
async def test_many_instances(bind: Bind, ask: Ask, number: int) -> None:
    """20 fit into one packet with EDNS, more come over TCP; additional addresses from BIND are not needed."""
    for n in range(number):
        bind.add(SRV, "SRV", f"0 1 {5000 + n} host-{n:02}.mesh.test")
        bind.add(f"host-{n:02}.mesh.test", "A", f"127.0.1.{n + 1}")
    _, told = ask("svc-a")
    assert await next_of(told) == sorted((f"127.0.1.{n + 1}:{5000 + n}", 1, 0) for n in range(number))


async def test_a_wildcard_catches_no_srv_target(bind: Bind, ask: Ask, tmp_path: Path) -> None:
    """Targets of SRV records are complete names: the wildcard of a search domain has an answer for any other."""
    (tmp_path / "resolv.conf").write_text("search mesh.test\noptions ndots:5\n")
    bind.add("*.mesh.test", "A", "127.0.0.66")
    bind.add("a.mesh.test", "A", "127.0.0.11")
    bind.add("a.mesh.test", "AAAA", "::1")
    bind.add("_grpc._tcp.svc-b.mesh.test", "SRV", "0 1 50051 a.mesh.test")
    shared, told = ask("srv:///_grpc._tcp.svc-b")
    assert await next_of(told) == [("127.0.0.11:50051", 1, 0)]
    assert shared.resolution is not None
    assert [each.alternatives for each in shared.resolution.endpoints] == [("[::1]:50051",)]


async def test_an_alias(bind: Bind, ask: Ask) -> None:
    """Within its zone BIND follows a CNAME, and the least TTL of the chain counts."""
    bind.add("web.mesh.test", "CNAME", NAME, ttl=3)
    bind.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=9)
    shared, told = ask("web:50051")
    assert await next_of(told) == [("127.0.0.11:50051", 1, 0), ("127.0.0.12:50051", 1, 0)]
    assert shared.resolution is not None
    assert shared.resolution.ttl == 3.0


async def test_an_alias_out_of_the_zone(bind: Bind, ask: Ask) -> None:
    """Outside its zone BIND leaves the alias to the client, and, not being authoritative, refuses to answer it."""
    bind.add("web.mesh.test", "CNAME", "web.example.org.")
    _, told = ask("web:50051")
    failure = await failure_of(told)
    assert f"A web.mesh.test. from {bind.address}: an alias for web.example.org." in failure
    assert f"A web.example.org. from {bind.address}: REFUSED" in failure


async def test_a_name_that_does_not_exist(bind: Bind, ask: Ask) -> None:
    """BIND's NXDOMAIN for SRV leads to the address queries; theirs ends the lookup."""
    _, told = ask("svc-a.mesh.test.")
    assert await failure_of(told) == (
        f"DNS has no address for 'svc-a.mesh.test.' (SRV _grpc._tcp.svc-a.mesh.test. from {bind.address}: NXDOMAIN; "
        f"A svc-a.mesh.test. from {bind.address}: NXDOMAIN; AAAA svc-a.mesh.test. from {bind.address}: NXDOMAIN)"
    )


@pytest.mark.parametrize("way", ["stop", "kill", "pause"])
async def test_a_name_server_that_goes_away(bind: Bind, ask: Ask, way: str) -> None:
    """The endpoints stay while it is refused or silent; when it returns, changes are seen again."""
    bind.add(SRV, "SRV", "0 1 50051 a.mesh.test")
    bind.add("a.mesh.test", "A", "127.0.0.11")
    shared, told = ask("svc-a", query_timeout=1.0, timeout=2.0)
    assert await next_of(told) == [("127.0.0.11:50051", 1, 0)]
    await asyncio.to_thread(getattr(bind, way))
    failure = await failure_of(told)
    assert ("no answer within 1 s" if way == "pause" else "Connection refused") in failure
    assert shared.resolution is not None
    assert [endpoint.address for endpoint in shared.resolution.endpoints] == ["127.0.0.11:50051"]
    await asyncio.to_thread(bind.resume if way == "pause" else bind.start)
    await asyncio.to_thread(bind.set, "a.mesh.test", "A", "127.0.0.12")
    while (news := await asyncio.wait_for(told.get(), DEADLINE)) and isinstance(news, str):
        continue
    while [endpoint.address for endpoint in news] != ["127.0.0.12:50051"]:
        news = await asyncio.wait_for(told.get(), DEADLINE)
        assert not isinstance(news, str)
