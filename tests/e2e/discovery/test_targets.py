"""Targets over a real name server: the endpoints that each of them stands for."""

import asyncio
from pathlib import Path

import pytest
from tests.e2e.discovery.asking import FAULTS, NAME, SRV, Ask, refreshing, types

from meshlib._control.system import SystemFiles
from meshlib._core.endpoint import Endpoint
from meshlib.testing import DnsServer

# --- the endpoints of a target ---


async def test_a_bare_name_is_its_srv_records(ask: Ask) -> None:
    """Ports, priorities and weights are those of the SRV records; each SRV target is looked up once."""
    with DnsServer() as server:
        server.add(
            SRV, "SRV", "0 3 5001 a.mesh.test", "0 1 5002 b.mesh.test", "0 1 5003 a.mesh.test", "9 0 5004 c.mesh.test"
        )
        for n, host in enumerate("abc", 11):
            server.add(f"{host}.mesh.test", "A", f"127.0.0.{n}")
        assert await ask("svc-a", nameservers=(server.address,)).endpoints() == [
            ("127.0.0.11:5001", 3, 0),
            ("127.0.0.11:5003", 1, 0),
            ("127.0.0.12:5002", 1, 0),
            ("127.0.0.13:5004", 1, 9),
        ]
        assert types(server)[0] == "SRV"
        assert sorted(types(server)[1:]) == ["A", "A", "A", "AAAA", "AAAA", "AAAA"]


@pytest.mark.parametrize("absence", ["NXDOMAIN", "NODATA"])
@pytest.mark.parametrize(("secure", "port"), [(False, 80), (True, 443)])
async def test_a_bare_name_without_srv_is_its_addresses(ask: Ask, absence: str, secure: bool, port: int) -> None:
    """Without an SRV name or record the addresses are used, with the port of the credentials."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12")
        if absence == "NODATA":
            server.add(SRV, "TXT", '"nothing of use"')
        asked = ask("svc-a", secure=secure, nameservers=(server.address,))
        assert await asked.addresses() == [f"127.0.0.11:{port}", f"127.0.0.12:{port}"]
        assert [str(step) for step in asked.shared.steps][-1] == f"A {NAME}. from {server.address}: 2 records"


@pytest.mark.parametrize("text", ["svc-a:50051", "dns:///svc-a:50051", "dns:svc-a:50051"])
async def test_a_port_skips_srv(ask: Ask, text: str) -> None:
    """A name with a port, or in ``dns:``, is queried only for addresses."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 5001 a.mesh.test")
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12")
        asked = ask(text, nameservers=(server.address,))
        assert await asked.addresses() == ["127.0.0.11:50051", "127.0.0.12:50051"]
        assert types(server) == ["A"]


@pytest.mark.parametrize("prefix", ["dns", "srv"])
async def test_a_target_names_its_name_server(ask: Ask, prefix: str) -> None:
    """``dns://server/name`` and ``srv://server/name`` query that server, regardless of the policy."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 50051 a.mesh.test")
        server.add("a.mesh.test", "A", "127.0.0.11")
        server.add(NAME, "A", "127.0.0.11")
        name = SRV if prefix == "srv" else f"{NAME}:50051"
        asked = ask(f"{prefix}://{server.address}/{name}", nameservers=("127.0.0.1:1",))
        assert await asked.addresses() == ["127.0.0.11:50051"]


async def test_a_list_of_hosts(ask: Ask) -> None:
    """Names in ``static:`` are resolved like all names, in parallel and each once; every entry is its own authority."""
    with DnsServer() as server:
        server.add("a.mesh.test", "A", "127.0.0.11")
        server.add("b.mesh.test", "A", "127.0.0.12")
        server.fault(rdtype="A", drop=True, times=2)
        hosts = "a:1,b:2,pinned:3,127.0.0.14:4,localhost:5,a:6"
        asked = ask(f"static:///{hosts}", nameservers=(server.address,), query_timeout=1.0)
        found = await asked.next()
        assert {(endpoint.address, endpoint.authority) for endpoint in found if isinstance(endpoint, Endpoint)} == {
            ("127.0.0.11:1", "a:1"),
            ("127.0.0.12:2", "b:2"),
            ("127.0.0.77:3", "pinned:3"),
            ("127.0.0.14:4", "127.0.0.14:4"),
            ("127.0.0.1:5", "localhost:5"),
            ("127.0.0.11:6", "a:6"),
        }
        names = [query.name for query in server.queries if query.type == "A"]
        assert sorted(names[:2]) == sorted(names[2:]) == ["a.mesh.test", "b.mesh.test"], "neither waits for the other"


@pytest.mark.parametrize("target", ["svc-a", f"srv:///{SRV}", f"srv:///{SRV}."])
async def test_srv_targets_are_complete_names(ask: Ask, machine: SystemFiles, tmp_path: Path, target: str) -> None:
    """Search domains are not appended to SRV targets, with few dots or many: a wildcard would match a stranger."""
    (tmp_path / "resolv.conf").write_text("search mesh.test\noptions ndots:5\n")
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 1 a.mesh.test", "0 1 2 single")
        server.add("a.mesh.test", "A", "127.0.0.11")
        server.add("single", "A", "127.0.0.12")
        for stranger in ("a.mesh.test.mesh.test", "single.mesh.test"):
            server.add(stranger, "A", "127.0.0.66")
        found = await ask(target, nameservers=(server.address,)).addresses()
        assert found == ["127.0.0.11:1", "127.0.0.12:2"]
        assert not any(query.name.endswith(".mesh.test.mesh.test") for query in server.queries if query.type != "SRV")


@pytest.mark.parametrize("fault", ["SERVFAIL", "silence"])
async def test_a_name_in_the_hosts_file_needs_no_name_server(ask: Ask, fault: str) -> None:
    """A bare name's SRV records are queried first; if no server answers soon, the hosts file is used."""
    with DnsServer() as server:
        server.fault(**FAULTS[fault])  # type: ignore[arg-type]
        policy = {"nameservers": (server.address,), "query_timeout": 0.1, "timeout": 60.0}
        assert await ask("pinned", **policy).addresses() == ["127.0.0.77:80"]


async def test_the_hosts_file_does_not_replace_srv_records_that_fail(ask: Ask) -> None:
    """Endpoints from SRV records stay: the addresses of the file may belong to something else."""
    with DnsServer() as server:
        server.add("_grpc._tcp.pinned.mesh.test", "SRV", "0 1 1 a.mesh.test", ttl=0)
        server.add("a.mesh.test", "A", "127.0.0.11", ttl=0)
        asked = ask("pinned", **refreshing(server, query_timeout=1.0, timeout=5.0))
        assert await asked.addresses() == ["127.0.0.11:1"]
        server.fault("_grpc._tcp.pinned.mesh.test", rcode="SERVFAIL")
        await asked.failure()
        server.heal()
        server.remove("_grpc._tcp.pinned.mesh.test")
        assert await asked.addresses() == ["127.0.0.77:80"]


PAIRED = [("127.0.0.11:1", ("[::1]:1",))]


@pytest.mark.parametrize("target", ["svc-a", "static:///a:1"])
@pytest.mark.parametrize(
    ("family", "expected"),
    [("auto", PAIRED), ("all", PAIRED), ("v4", [("127.0.0.11:1", ())]), ("v6", [("[::1]:1", ())])],
)
async def test_a_host_with_an_address_of_each_family(
    ask: Ask, target: str, family: str, expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    """The target of an SRV record and an entry of a list are one host: one endpoint with an alternative."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 1 a.mesh.test")
        server.add("a.mesh.test", "A", "127.0.0.11")
        server.add("a.mesh.test", "AAAA", "::1")
        found = await ask(target, nameservers=(server.address,), family=family).next()
        assert [(each.address, each.alternatives) for each in found if isinstance(each, Endpoint)] == expected


async def test_several_addresses_of_a_family_are_not_paired(ask: Ask) -> None:
    """DNS does not pair addresses: the family decides, as for the addresses of a plain name."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 1 a.mesh.test")
        server.add("a.mesh.test", "A", "127.0.0.11", "127.0.0.12")
        server.add("a.mesh.test", "AAAA", "::1")
        server.add(NAME, "A", "127.0.0.13")
        server.add(NAME, "AAAA", "::1")
        policy = {"nameservers": (server.address,)}
        assert await ask("svc-a", **policy).addresses() == ["127.0.0.11:1", "127.0.0.12:1"]
        assert await ask("svc-a", family="all", **policy).addresses() == ["127.0.0.11:1", "127.0.0.12:1", "[::1]:1"]
        assert await ask("svc-a:1", family="all", **policy).addresses() == ["127.0.0.13:1", "[::1]:1"]
        found = await ask("svc-a:1", **policy).next()
        assert [(each.address, each.alternatives) for each in found if isinstance(each, Endpoint)] == [
            ("127.0.0.13:1", ())
        ]


async def test_an_alternative_stays_while_no_server_answers_for_it(ask: Ask) -> None:
    """A lost answer does not change the host, whose connection would be made anew."""
    with DnsServer() as server:
        server.add("a.mesh.test", "A", "127.0.0.11", ttl=0)
        server.add("a.mesh.test", "AAAA", "::1", ttl=0)
        asked = ask("static:///a:1", **refreshing(server))
        assert await asked.addresses() == ["127.0.0.11:1"]
        server.fault("a.mesh.test", "AAAA", rcode="SERVFAIL")
        before = len(server.queries)
        await asyncio.to_thread(server.wait_for_queries, before + 6)
        assert asked.nothing_more()
        assert asked.shared.resolution is not None
        assert [each.alternatives for each in asked.shared.resolution.endpoints] == [("[::1]:1",)]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("auto", ("127.0.0.1:1", "[::1]:1")),
        ("all", ("127.0.0.1:1", "[::1]:1")),
        ("v4", ("127.0.0.1:1",)),
        ("v6", ("[::1]:1",)),
    ],
)
@pytest.mark.parametrize("target", ["localhost:1", "dns:///db.localhost:1"])
async def test_localhost_is_one_host(
    ask: Ask, tmp_path: Path, target: str, family: str, expected: tuple[str, ...]
) -> None:
    """localhost has both loopback addresses, even if the hosts file has one of them."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    found = await ask(target, family=family).next()
    assert [(each.address, *each.alternatives) for each in found if isinstance(each, Endpoint)] == [expected]


async def test_the_least_ttl_counts(ask: Ask) -> None:
    """The least TTL is that of the SRV set and of all its addresses."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 1 a.mesh.test", "0 1 2 b.mesh.test", ttl=20)
        server.add("a.mesh.test", "A", "127.0.0.11", ttl=9)
        server.add("b.mesh.test", "A", "127.0.0.12", ttl=7)
        asked = ask("svc-a", nameservers=(server.address,))
        await asked.endpoints()
        assert asked.shared.resolution is not None
        assert asked.shared.resolution.ttl == 7.0


@pytest.mark.parametrize("target", ["svc-a", f"srv:///{SRV}"])
async def test_a_service_that_is_not_offered(ask: Ask, target: str) -> None:
    """The target "." is an answer, not the lack of one: nothing else of that name is tried."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 0 0 .")
        server.add(NAME, "A", "127.0.0.11")
        assert "the service is not offered" in await ask(target, nameservers=(server.address,)).failure()
        assert types(server) == ["SRV"]
        assert await ask(target, nameservers=(server.address,), allow_empty=True).endpoints() == []


async def test_a_srv_target_does_not_fall_back(ask: Ask) -> None:
    """An SRV target without SRV records fails, and the error names the query."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        told = await ask(f"srv:///{SRV}.", nameservers=(server.address,)).failure()
        assert told == f"DNS has no SRV record for '{NAME}.' (SRV {SRV}. from {server.address}: NXDOMAIN)"


# --- the environment ---


async def test_the_environment_comes_first(ask: Ask, environ: dict[str, str]) -> None:
    """The environment precedes even SRV; its endpoints have the name's authority; it is read each time."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 50051 a.mesh.test")
        server.add("a.mesh.test", "A", "127.0.0.11")
        environ["MESHLIB_SVC_A_ENDPOINTS"] = "127.0.0.1:5001, 127.0.0.1:5002"
        asked = ask("svc-a", **refreshing(server))
        found = await asked.next()
        assert found == (Endpoint(address="127.0.0.1:5001"), Endpoint(address="127.0.0.1:5002"))
        assert server.queries == []
        assert str(asked.shared.steps[0]) == (
            "MESHLIB_SVC_A_ENDPOINTS from the environment: 127.0.0.1:5001, 127.0.0.1:5002"
        )
        environ["MESHLIB_SVC_A_ENDPOINTS"] = "a.mesh.test:5003,localhost:5004"
        assert await asked.addresses() == ["127.0.0.11:5003", "127.0.0.1:5004"]
        del environ["MESHLIB_SVC_A_ENDPOINTS"]
        assert await asked.addresses() == ["127.0.0.11:50051"]


@pytest.mark.parametrize("target", ["svc-a:1", "dns:///svc-a:1", "srv:///_grpc._tcp.svc-a"])
async def test_the_environment_stands_for_any_target_of_that_host(
    ask: Ask, environ: dict[str, str], target: str
) -> None:
    """The environment overrides every kind of lookup: the host name decides."""
    environ["MESHLIB_SVC_A_ENDPOINTS"] = "127.0.0.1:5001"
    assert await ask(target).addresses() == ["127.0.0.1:5001"]


async def test_a_malformed_override(ask: Ask, environ: dict[str, str]) -> None:
    """A malformed override is an error, not treated as unset: its user wants no other endpoints."""
    environ["MESHLIB_SVC_A_ENDPOINTS"] = "127.0.0.1"
    assert "environment variable MESHLIB_SVC_A_ENDPOINTS is malformed" in await ask("svc-a").failure()
