"""A third-party service: three etcd servers behind ``_etcd-client._tcp`` SRV records, called with raw bytes."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.etcd import PUT, RANGE, Etcd, range_value

import meshlib
from meshlib import aio
from meshlib.testing import DnsServer

PUT_REQUEST = b"\x0a\x03key\x12\x05value"  # PutRequest{key = 1: "key", value = 2: "value"}
RANGE_REQUEST = b"\x0a\x03key"  # RangeRequest{key = 1: "key"}
CALLERS = 4
DEADLINE = 20.0


@pytest.fixture
def etcd(require_real: Callable[[str, str], Path], tmp_path: Path) -> Iterator[Etcd]:
    """Three servers, each with its own data: the called server answers a read."""
    with Etcd(require_real("etcd", "etcd-server"), tmp_path) as servers:
        yield servers


@pytest.fixture
def target(etcd: Etcd) -> Iterator[str]:
    """The etcd convention for clients: one SRV record for each member."""
    with DnsServer() as dns:
        for n, member in enumerate(etcd.members, 1):
            dns.add("_etcd-client._tcp.mesh.test", "SRV", f"0 1 {etcd.port} m{n}.mesh.test")
            dns.add(f"m{n}.mesh.test", "A", member.address.partition(":")[0])
        with meshlib.channel(f"srv://{dns.address}/_etcd-client._tcp.mesh.test") as channel:
            _fill(channel, etcd)
        yield f"srv://{dns.address}/_etcd-client._tcp.mesh.test"


def test_a_member_is_killed_under_sync_calls(etcd: Etcd, target: str) -> None:
    """Ranges go to all three members; one is killed under load and comes back, and no call fails."""
    seen = Seen()
    with meshlib.channel(target) as channel:
        unary = channel.unary_unary(RANGE)

        def caller() -> None:
            while not seen.enough():
                response, call = unary.with_call(RANGE_REQUEST, timeout=DEADLINE)
                seen.note(response, call.mesh)

        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(caller) for _ in range(CALLERS)]
            seen.kill_and_start(etcd)
            for each in callers:
                each.result(DEADLINE)
    seen.check(etcd)


async def test_a_member_is_killed_under_asyncio_calls(etcd: Etcd, target: str) -> None:
    """The same in asyncio."""
    seen = Seen()
    async with aio.channel(target) as channel:
        unary = channel.unary_unary(RANGE)

        async def caller() -> None:
            while not seen.enough():
                call: Any = unary(RANGE_REQUEST, timeout=DEADLINE)
                seen.note(await call, call.mesh)

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(
                asyncio.to_thread(seen.kill_and_start, etcd),
                *(caller() for _ in range(CALLERS)),
            )
    seen.check(etcd)


class Seen:
    """The answers and their servers; and the kill in the middle."""

    def __init__(self) -> None:
        self._values: Counter[bytes | None] = Counter()
        self._hosts: Counter[str] = Counter()
        self._returned: str | None = None
        self._under_way = threading.Event()
        self._given_up = time.monotonic() + DEADLINE

    def note(self, response: bytes, mesh: Any) -> None:
        """Record a successful call."""
        self._values[range_value(response)] += 1
        self._hosts[mesh.attempts[-1].host] += 1
        if self._hosts.total() > 100:
            self._under_way.set()

    def kill_and_start(self, etcd: Etcd) -> None:
        """Kill a member that answers calls, and start it again."""
        assert self._under_way.wait(DEADLINE)
        victim = etcd.members[1]
        victim.kill()
        victim.start()
        self._hosts[victim.address] = 0
        self._returned = victim.address

    def enough(self) -> bool:
        """Whether the killed member answers again, or the deadline for that is over."""
        back = self._returned is not None and self._hosts[self._returned] > 10
        return back or time.monotonic() > self._given_up

    def check(self, etcd: Etcd) -> None:
        """Check that every answer was right, and that all members gave some."""
        assert self._values.keys() == {b"value"}
        assert self._returned is not None
        assert all(self._hosts[address] > 10 for address in etcd.addresses), self._hosts


def _fill(channel: meshlib.Channel, etcd: Etcd) -> None:
    """Write the key to each member, through the channel."""
    unary = channel.unary_unary(PUT)
    deadline = time.monotonic() + DEADLINE
    told: set[str] = set()
    while told != set(etcd.addresses):
        assert time.monotonic() < deadline, told
        _, call = unary.with_call(PUT_REQUEST, timeout=DEADLINE)
        told.add(call.mesh.attempts[-1].host)
