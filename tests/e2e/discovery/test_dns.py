"""Targets over a real name server: their endpoints, and the effect of DNS changes and failures."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from meshlib._control.shared import Resolutions, SharedResolution
from meshlib._control.sources import source
from meshlib._control.system import SystemFiles
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.endpoint import Endpoint
from meshlib._core.target import parse_target
from meshlib.testing import DnsServer, flush_logs

NAME = "svc-a.mesh.test"
SRV = f"_grpc._tcp.{NAME}"
DEADLINE = 20.0

Ask = Callable[..., "Asked"]


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


@pytest.fixture
def environ() -> dict[str, str]:
    """The environment of the program under test."""
    return {}


@pytest.fixture
def machine(tmp_path: Path) -> SystemFiles:
    """A machine without a name server of its own: queries to the default one are refused at once."""
    (tmp_path / "resolv.conf").write_text("search mesh.test\n")
    (tmp_path / "hosts").write_text("127.0.0.77 pinned\n")
    return SystemFiles(tmp_path / "resolv.conf", tmp_path / "hosts")


@pytest.fixture
async def ask(rng: Random, environ: dict[str, str], machine: SystemFiles) -> AsyncIterator[Ask]:
    """``ask(target, **policy)`` subscribes to a target; every subscription ends with the test."""
    table = Resolutions(clock=time.monotonic, rng=rng, environ=environ, files=machine)
    subscriptions: list[Asked] = []

    def subscribe(text: str, *, secure: bool = False, **policy: object) -> Asked:
        target = parse_target(text, secure=secure)
        subscriptions.append(Asked(table.get(source(target, DnsPolicy(**policy)))))  # type: ignore[arg-type]
        return subscriptions[-1]

    yield subscribe
    for subscription in subscriptions:
        subscription.leave()
    await table.aclose()


def types(server: DnsServer) -> list[str]:
    """The queried types."""
    return [query.type for query in server.queries]


def refreshing(server: DnsServer, **more: object) -> dict[str, object]:
    """A policy that queries ``server`` so often that a test need not wait."""
    return {"nameservers": (server.address,), "min_ttl": 0.05, "max_ttl": 0.05, **more}


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
    """A name with a port, or in ``dns:``, is queried for addresses alone."""
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


# --- changes ---


async def test_records_that_come_and_go(ask: Ask) -> None:
    """A new record adds an endpoint, a removed one removes it, a new weight is a change; equal answers are silent."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 1 a.mesh.test", ttl=0)
        server.add("a.mesh.test", "A", "127.0.0.11", ttl=0)
        server.add("b.mesh.test", "A", "127.0.0.12", ttl=0)
        asked = ask("svc-a", **refreshing(server))
        assert await asked.endpoints() == [("127.0.0.11:1", 1, 0)]
        server.add(SRV, "SRV", "0 1 2 b.mesh.test", ttl=0)
        assert await asked.addresses() == ["127.0.0.11:1", "127.0.0.12:2"]
        server.set(SRV, "SRV", "0 3 1 a.mesh.test", "0 1 2 b.mesh.test", ttl=0)
        assert await asked.endpoints() == [("127.0.0.11:1", 3, 0), ("127.0.0.12:2", 1, 0)]
        seen = len(server.queries)
        await asyncio.to_thread(server.wait_for_queries, seen + 7)
        assert asked.nothing_more()
        server.set(SRV, "SRV", "0 1 2 b.mesh.test", ttl=0)
        assert await asked.endpoints() == [("127.0.0.12:2", 1, 0)]


async def test_a_ttl_of_zero_is_no_storm(ask: Ask) -> None:
    """With Consul's default the next query waits for ``min_ttl``."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=0)
        asked = ask("svc-a:1", nameservers=(server.address,), min_ttl=20.0)
        await asked.endpoints()
        assert asked.shared.asked_at is not None
        assert asked.shared.next_at is not None
        assert asked.shared.next_at - asked.shared.asked_at >= 20.0


# --- failures ---

FAULTS = {
    "SERVFAIL": {"rcode": "SERVFAIL"},
    "NXDOMAIN": {"rcode": "NXDOMAIN"},
    "REFUSED": {"rcode": "REFUSED"},
    "empty": {"empty": True},
    "silence": {"drop": True},
    "forged": {"wrong_id": True},
}


@pytest.mark.parametrize("target", ["svc-a", "svc-a:50051", f"srv:///{SRV}", "static:///a:1"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_failures_keep_the_last_good_endpoints(ask: Ask, target: str, fault: str) -> None:
    """No DNS failure removes an endpoint; its recovery is reported."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 50051 a.mesh.test", ttl=0)
        server.add("a.mesh.test", "A", "127.0.0.11", ttl=0)
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=0)
        asked = ask(target, **refreshing(server, query_timeout=1.0, timeout=2.0))
        good = await asked.endpoints()
        server.fault(**FAULTS[fault])  # type: ignore[arg-type]
        await asked.failure()
        assert asked.shared.resolution is not None
        assert len(asked.shared.resolution.endpoints) == len(good)
        assert asked.shared.error is not None
        server.heal()
        asked.shared.resolve_now()
        told = await asked.next()
        while isinstance(told, str):
            told = await asked.next()
        assert sorted(endpoint.address for endpoint in told) == [address for address, _, _ in good]


@pytest.mark.parametrize("fault", ["NXDOMAIN", "empty"])
@pytest.mark.parametrize("target", ["svc-a", "svc-a:50051", f"srv:///{SRV}"])
async def test_that_there_is_nothing_may_be_believed(ask: Ask, target: str, fault: str) -> None:
    """With ``allow_empty`` a removed name has no endpoints."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 50051 a.mesh.test", ttl=0)
        server.add("a.mesh.test", "A", "127.0.0.11", ttl=0)
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=0)
        asked = ask(target, **refreshing(server, allow_empty=True))
        assert await asked.endpoints() != []
        server.fault(**FAULTS[fault])  # type: ignore[arg-type]
        assert await asked.endpoints() == []


@pytest.mark.parametrize("fault", ["SERVFAIL", "silence"])
async def test_a_failure_is_never_nothing(ask: Ask, fault: str) -> None:
    """A failed lookup is not an empty answer, even with ``allow_empty``."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=0)
        asked = ask("svc-a:1", **refreshing(server, allow_empty=True, query_timeout=1.0, timeout=2.0))
        await asked.endpoints()
        server.fault(**FAULTS[fault])  # type: ignore[arg-type]
        await asked.failure()


@pytest.mark.parametrize("fault", ["SERVFAIL", "silence", "REFUSED"])
async def test_a_failing_srv_question_does_not_lead_to_the_addresses(ask: Ask, fault: str) -> None:
    """One lost packet must not send all traffic to the hosts of the bare name; the error says how to do without SRV."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.99")
        server.fault(SRV, "SRV", **FAULTS[fault])  # type: ignore[arg-type]
        told = await ask("svc-a", nameservers=(server.address,), query_timeout=0.2, timeout=0.4).failure()
        assert "add a port to skip the SRV query, as in svc-a:50051" in told
        assert set(types(server)) == {"SRV"}


async def test_one_of_several_hosts_fails(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """A failing host keeps its last good addresses and delays no other; one that never had any is left out."""
    with DnsServer() as server:
        server.add(SRV, "SRV", "0 1 1 a.mesh.test", "0 1 2 b.mesh.test", "0 1 3 new.mesh.test", ttl=0)
        server.add("a.mesh.test", "A", "127.0.0.11", ttl=0)
        server.add("b.mesh.test", "A", "127.0.0.12", ttl=0)
        asked = ask("svc-a", **refreshing(server))
        assert await asked.addresses() == ["127.0.0.11:1", "127.0.0.12:2"]
        server.fault("b.mesh.test", rcode="SERVFAIL")
        server.set("a.mesh.test", "A", "127.0.0.21", ttl=0)
        assert await asked.addresses() == ["127.0.0.12:2", "127.0.0.21:1"]
        server.set(SRV, "SRV", "0 1 1 a.mesh.test", ttl=0)
        assert await asked.addresses() == ["127.0.0.21:1"]
    flush_logs()
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("svc-a: host new.mesh.test failed to resolve, host left out" in text for text in warnings) == 1
    assert sum("svc-a: host b.mesh.test failed to resolve, last good addresses kept" in text for text in warnings) == 1


async def test_no_host_of_several_can_be_resolved(ask: Ask) -> None:
    """The error counts them and gives the most hopeful reason."""
    with DnsServer() as server:
        server.fault("b.mesh.test", rcode="SERVFAIL")
        told = await ask("static:///a:1,b:2", nameservers=(server.address,)).failure()
        assert told.startswith("none of 2 hosts has an address: no name server answered the A query for b.mesh.test.")
        assert "A a.mesh.test." in told


async def test_a_failing_host_makes_it_ask_at_once(ask: Ask) -> None:
    """A failing host triggers a lookup long before the TTL is over."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=3600)
        asked = ask("svc-a:1", nameservers=(server.address,), min_ttl=0.05)
        await asked.endpoints()
        server.remove(NAME, "A", "127.0.0.12")
        asked.shared.hurry()
        assert await asked.addresses() == ["127.0.0.11:1"]


# --- the warning ---


async def test_one_address_behind_a_name(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """The warning asks whether it is headless: once, and only for an address from a name server."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", ttl=0)
        await ask("svc-a:1", **refreshing(server)).endpoints()
        await asyncio.to_thread(server.wait_for_queries, 3)
        for target in ("localhost:1", "127.0.0.1:1", "pinned:1"):
            await ask(target).endpoints()
    flush_logs()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "svc-a:1: only one address, calls cannot be balanced: address=127.0.0.11" in warning.getMessage()
    assert "headless" in warning.getMessage()


# --- sharing and ending ---


async def test_two_channels_ask_once(ask: Ask) -> None:
    """Two channels share a lookup; a third with another policy makes its own."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=30)
        first, second = (ask("svc-a:1", nameservers=(server.address,)) for _ in range(2))
        assert await first.addresses() == await second.addresses()
        assert len(server.queries) == 1
        await ask("svc-a:1", nameservers=(server.address,), family="all").endpoints()
        assert len(server.queries) == 3


async def test_leaving_in_the_middle_of_a_question(ask: Ask) -> None:
    """The socket is closed with the last channel; descriptors are counted after the test."""
    with DnsServer() as server:
        server.fault(drop=True)
        asked = ask("svc-a", nameservers=(server.address,))
        await asyncio.to_thread(server.wait_for_queries, 1)
        asked.leave()
        assert asked.nothing_more()
