"""A service behind SRV records of a real BIND 9: changes, weights, failover, and the death of the name server."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.bind import Bind
from tests.e2e.load import KINDS, SHELLS, Kind, Load, Shell
from tests.waiting import log_lines

import meshlib
from meshlib import aio
from meshlib.testing import DnsServer, ProcessServer, Server, echo, servers

NAME = "svc-a.mesh.test"
SRV = f"_grpc._tcp.{NAME}"
TTL = 1.0
SOON = TTL + 1.0
"""Seconds after which a change of records takes effect."""
SLOW = 0.9
"""Seconds: less than any wait for a name server, more than a busy machine adds to a call."""

both_shells = pytest.mark.parametrize("shell", SHELLS)


@pytest.fixture
def bind(require_real: Callable[[str, str], Path], tmp_path: Path) -> Iterator[Bind]:
    """A name server of this test's own."""
    with Bind(require_real("named", "bind9"), tmp_path) as server:
        server.add("host.mesh.test", "A", "127.0.0.1", ttl=int(TTL))
        yield server


def record(server: Server | ProcessServer, *, priority: int = 0, weight: int = 1) -> str:
    """The SRV record of ``server``."""
    return f"{priority} {weight} {server.port} host.mesh.test"


def publish(bind: Bind, *records: str) -> None:
    """Make these the service's records."""
    bind.set(SRV, "SRV", *records, ttl=int(TTL))


def load_on(bind: Bind, shell: Shell, kind: Kind = "unary", **options: Any) -> Load:
    """Traffic to the service, by its bare name."""
    return Load(
        NAME,
        shell=shell,
        kind=kind,
        dns=meshlib.DnsPolicy(nameservers=(bind.address,), timeout=1.0),
        **{"callers": 4, "delay": 5, **options},
    )


def shares(load: Load, calls: int) -> dict[str, float]:
    """The shares of the servers in the next ``calls`` calls."""
    began = time.monotonic()
    load.wait_for_calls(calls)
    answered = Counter(str(result.server) for result in load.since(began))
    return {name: count / answered.total() for name, count in answered.items()}


@pytest.mark.parametrize("kind", KINDS)
@both_shells
def test_records_that_come_and_go(bind: Bind, shell: Shell, kind: Kind) -> None:
    """A new instance has traffic within TTL + 1 s; a removed one has none after TTL + 1 s; no call fails."""
    with servers(3) as (a, b, c):
        publish(bind, record(a), record(b))
        with load_on(bind, shell, kind) as load:
            load.wait_until(lambda: {"server-1", "server-2"} == {result.server for result in load.results})
            publish(bind, record(a), record(b), record(c))
            load.wait_until(lambda: c.calls.total() > 0, timeout=SOON)
            publish(bind, record(b), record(c))
            gone = time.monotonic() + SOON
            load.wait_until(lambda: time.monotonic() > gone)
            load.wait_for_calls(50)
        assert {result.server for result in load.since(gone)} == {"server-2", "server-3"}
        assert load.failed == []
        assert a.in_flight == 0


@both_shells
def test_calls_in_flight_on_a_removed_instance_finish(bind: Bind, shell: Shell) -> None:
    """A removed instance gets no new call; its calls in flight are answered by it, with one attempt."""
    with servers(2) as (a, b):
        publish(bind, record(a), record(b))
        a.fault(delay=2 * SOON, times=1)
        with load_on(bind, shell) as load:
            a.wait_until(lambda server: bool(server.unfinished))
            load.wait_until(lambda: load.ready() == 2)
            (inside,) = _held(a)
            publish(bind, record(b))
            load.wait_until(lambda: len(load.channel.mesh.snapshot().hosts) == 1, timeout=SOON)
            load.wait_until(lambda: any(result.request_id == inside for result in load.results))
        (held,) = [result for result in load.results if result.request_id == inside]
        assert (held.code, held.server, len(held.attempts)) == ("OK", "server-1", 1)
        assert load.failed == []


def _held(server: Server) -> frozenset[str]:
    """The calls that are still in flight when others beside them have ended."""
    first = server.unfinished
    server.wait_until(lambda server: server.calls.total() > 20)
    return first & server.unfinished


@both_shells
def test_srv_weights_are_shares(bind: Bind, shell: Shell) -> None:
    """Weights of 3 and 1 give 3:1 within 5 %; changed to 1:3 they give that, with no failed call."""
    with servers(2) as (a, b):
        publish(bind, record(a, weight=3), record(b, weight=1))
        with load_on(bind, shell) as load:
            load.wait_until(lambda: load.ready() == 2)
            assert shares(load, 400) == pytest.approx({"server-1": 0.75, "server-2": 0.25}, abs=0.05)
            publish(bind, record(a, weight=1), record(b, weight=3))
            load.wait_until(lambda: _weights(load) == {a.address: 1, b.address: 3}, timeout=SOON)
            load.wait_for_calls(4)
            assert shares(load, 400) == pytest.approx({"server-1": 0.25, "server-2": 0.75}, abs=0.05)
        assert load.failed == []


def _weights(load: Load) -> dict[str, float]:
    return {host.address: host.weight for host in load.channel.mesh.snapshot().hosts}


@both_shells
def test_a_dead_tier_fails_over_and_comes_back(bind: Bind, shell: Shell) -> None:
    """Priority 0 has all the traffic, priority 1 has it while 0 is dead, then 0 again; no call fails."""
    with ProcessServer(name="primary") as primary, Server(name="backup") as backup:
        publish(bind, record(primary, priority=0), record(backup, priority=1))
        with load_on(bind, shell) as load:
            load.wait_until(lambda: load.ready() == 2)
            load.wait_for_calls(4)
            assert shares(load, 50) == {"primary": 1.0}
            primary.kill()
            load.wait_until(lambda: load.results[-1].server == "backup")
            load.wait_for_calls(4)
            assert shares(load, 50) == {"backup": 1.0}
            primary.start()
            load.wait_until(lambda: load.ready() == 2)
            load.wait_for_calls(4)
            assert shares(load, 50) == {"primary": 1.0}
        assert load.failed == []


@pytest.mark.parametrize("way", ["pause", "stop"])
@both_shells
def test_a_dead_name_server_changes_nothing(bind: Bind, shell: Shell, way: str) -> None:
    """While it is silent or gone for several TTLs, no call fails or waits for it; when it returns, changes are seen
    again."""
    with servers(2) as (a, b):
        publish(bind, record(a))
        with load_on(bind, shell) as load:
            load.wait_until(lambda: load.ready() == 1)
            getattr(bind, way)()
            error = load_until_error(load)
            before = load.channel.mesh.snapshot().hosts
            load.wait_for_calls(100)
            assert [host.address for host in load.channel.mesh.snapshot().hosts] == [host.address for host in before]
            getattr(bind, {"pause": "resume", "stop": "start"}[way])()
            publish(bind, record(a), record(b))
            load.wait_until(lambda: b.calls.total() > 0, timeout=20.0)
        assert bind.address in error
        assert load.failed == []
        assert [result for result in load.results if result.seconds > SLOW] == []


def load_until_error(load: Load) -> str:
    """Wait until a resolution failed; returns the reason."""
    load.wait_until(lambda: load.channel.mesh.snapshot().resolution_error is not None)
    return str(load.channel.mesh.snapshot().resolution_error)


@both_shells
def test_identical_answers_change_nothing(bind: Bind, shell: Shell) -> None:
    """Answers with the same records, in any order, keep every connection and its streams."""
    with servers(3) as all_servers:
        publish(bind, *map(record, all_servers))
        with load_on(bind, shell, "streaming", callers=9, delay=800) as load:
            for server in all_servers:
                server.wait_until(lambda server: server.in_flight > 0)
            before = _identity(load)
            publish(bind, *map(record, reversed(all_servers)))
            _await_resolution(load)
            _await_resolution(load)
            assert _identity(load) == before
        for server in all_servers:
            assert len({call.peer for call in server.received}) == 1
        assert {len(result.attempts) for result in load.results} == {1}
        assert load.failed == []


def _identity(load: Load) -> list[tuple[str, str, float, int]]:
    hosts = load.channel.mesh.snapshot().hosts
    return sorted((host.address, host.state, host.weight, host.priority) for host in hosts)


def _await_resolution(load: Load) -> None:
    """Wait until the name has been queried again, and answered."""
    now = time.monotonic()

    def answered() -> bool:
        snapshot = load.channel.mesh.snapshot()
        asked = time.monotonic() - (snapshot.last_resolution or 0)
        return asked > now and snapshot.next_resolution is not None and snapshot.resolution_error is None

    load.wait_until(answered)


# --- one shared lookup, which only the server in this process can count ---


def test_channels_to_one_name_share_its_resolution() -> None:
    """The second channel makes no query, and one query brings a change to both."""
    with servers(2) as (a, b), DnsServer() as dns:
        target = _named(dns, a)
        with meshlib.channel(target) as first, meshlib.channel(target) as second:
            first.unary_unary(echo.UNARY)(b"x", timeout=SOON)
            asked = len(dns.queries)
            second.unary_unary(echo.UNARY)(b"x", timeout=SOON)
            assert len(dns.queries) == asked
            dns.set(SRV, "SRV", record(b), ttl=30)
            with log_lines() as lines:
                first.mesh.resolve_now()
                lines.wait_for(f"endpoints changed: .*{re.escape(b.address)}", times=2)
            assert [query.type for query in dns.queries].count("SRV") == 2
        assert (a.calls[echo.UNARY], b.calls[echo.UNARY]) == (2, 0)


async def test_channels_of_one_loop_share_its_resolution() -> None:
    """The same in asyncio."""
    with servers(2) as (a, b), DnsServer() as dns:
        target = _named(dns, a)
        async with aio.channel(target) as first, aio.channel(target) as second:
            await first.unary_unary(echo.UNARY)(b"x", timeout=SOON)
            asked = len(dns.queries)
            await second.unary_unary(echo.UNARY)(b"x", timeout=SOON)
            assert len(dns.queries) == asked
            dns.set(SRV, "SRV", record(b), ttl=30)
            with log_lines() as lines:
                first.mesh.resolve_now()
                await asyncio.to_thread(lines.wait_for, f"endpoints changed: .*{re.escape(b.address)}", times=2)
            assert [query.type for query in dns.queries].count("SRV") == 2


def _named(dns: DnsServer, server: Server) -> str:
    dns.add("host.mesh.test", "A", "127.0.0.1", ttl=30)
    dns.add(SRV, "SRV", record(server), ttl=30)
    return f"srv://{dns.address}/{SRV}"
