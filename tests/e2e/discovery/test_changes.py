"""The effect of changes and failures of DNS on the endpoints of a target."""

import asyncio
import logging

import pytest
from tests.e2e.discovery.asking import FAULTS, NAME, SRV, Ask, refreshing, types

from meshlib.testing import DnsServer, flush_logs

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
    """A failing host keeps its last good addresses and does not delay others; one that never had any is omitted."""
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
    """The warning recommends a headless service: once, and only for an address from a name server."""
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
