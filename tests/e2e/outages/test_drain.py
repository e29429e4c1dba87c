"""Hosts that leave, for good or for a while, under calls: calls in flight end there, new ones go elsewhere."""

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE
from tests.e2e.callers import Caller, caller, reader
from tests.e2e.instances import Scripted, connections, endpoint, static
from tests.e2e.kinds import KINDS as FOUR_KINDS
from tests.e2e.kinds import Requests, all_answers, expected, starters
from tests.e2e.load import KINDS, SHELLS, Kind, Load, Shell
from tests.waiting import aio_until

import meshlib
from meshlib.testing import Server, echo, servers

pytestmark = pytest.mark.parametrize("shell", SHELLS)

LIVES = 5
"""Number of connections per server in a test of connection age."""


GRACE = 1.0  # seconds; each call in flight takes a tenth of one
REQUESTS = [b"0", b"1", b"2"]


class Stream:
    """An open stream of echoes."""

    def __init__(self, it: Caller) -> None:
        self._requests = Requests(it.shell)
        self.call = it.channel.stream_stream(echo.BIDI_STREAM)(self._requests.iterator(), timeout=PATIENCE)
        self._read = reader(it, self.call)

    async def echo(self, message: bytes) -> None:
        """Send one message and receive its echo."""
        self._requests.send(message)
        assert await self._read() == message

    async def end(self) -> None:
        """Half-close; the server answers with OK."""
        self._requests.send(None)
        with pytest.raises(StopAsyncIteration):
            await self._read()


async def rename(it: Caller, resolver: Scripted, *named: Server) -> None:
    """Replace the hosts, and wait until the channel has them."""
    resolver.endpoints = tuple(endpoint(server) for server in named)
    it.channel.mesh.resolve_now()
    addresses = [server.address for server in named]
    await aio_until(lambda: [host.address for host in it.hosts] == addresses, "the channel knows")


@pytest.mark.parametrize("kind", KINDS)
def test_connections_that_end_by_age_cost_no_call(shell: Shell, kind: Kind) -> None:
    """No call fails through repeated GOAWAYs on each connection, without retries."""
    age = [("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 10_000)]
    with servers(2, options=age) as some:
        with Load(static(*some), shell=shell, kind=kind, callers=4, delay=5, retry=None) as load:
            load.wait_until(
                lambda: all(len({call.peer for call in server.received}) >= LIVES for server in some), timeout=30
            )
        assert load.failed == []


async def test_all_hosts_leave_and_come_back(shell: Shell) -> None:
    """Calls in flight end there, even long streams; a new call fails at once with the reason, or waits for a host."""
    resolver = Scripted()
    believing = meshlib.DnsPolicy(allow_empty=True)
    with servers(2) as some:
        resolver.endpoints = tuple(map(endpoint, some))
        async with caller(shell, name="svc-a", resolver=resolver, dns=believing, retry=None) as it:
            await it.ready(2)
            start = starters(it.channel, shell)
            stream = Stream(it)
            await stream.echo(b"1")
            for server in some:
                server.fault(hang=True)
            held = [(kind, start[kind](REQUESTS, timeout=PATIENCE)) for kind in FOUR_KINDS * 2]
            await aio_until(lambda: sum(server.in_flight for server in some) == 1 + len(held), "all are inside")

            await rename(it, resolver)
            error = await it.failure()
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == "'svc-a' has no endpoints: the resolver returned no endpoints"
            assert error.mesh.attempts == ()
            waiting = [start["unary_unary"]([b"x"], wait_for_ready=True, timeout=PATIENCE) for _ in range(3)]
            await aio_until(lambda: it.channel.mesh.snapshot().waiting == 3, "they wait")
            await stream.echo(b"2")
            for server in some:
                server.heal()
            while held:
                assert await whole(shell, *held.pop()) == 1
            await stream.echo(b"3")
            await stream.end()
            del stream  # grpc.aio keeps the connection while a call of it is referenced, ended or not
            await aio_until(lambda: sum(map(connections, some)) == 0, "what nobody uses is closed")
            assert it.channel.mesh.snapshot().waiting == 3

            await rename(it, resolver, *some)
            for call in waiting:
                assert await all_answers(shell, "unary_unary", call) == [b"x"]
            response, _ = await it.unary()
            assert response == b"x"


def test_under_load_only_what_is_new_notices_that_all_hosts_leave(shell: Shell) -> None:
    """Callers never pause: calls that a server has begun succeed, the rest are rejected before they are sent."""
    resolver = Scripted()
    options: dict[str, Any] = {"resolver": resolver, "dns": meshlib.DnsPolicy(allow_empty=True), "retry": None}
    with servers(2) as some:
        resolver.endpoints = tuple(map(endpoint, some))
        with Load("svc-a", shell=shell, callers=4, delay=5, **options) as load:
            load.wait_for_ready(2)
            for named in ([], some) * 2:
                resolver.endpoints = tuple(map(endpoint, named))
                load.channel.mesh.resolve_now()
                code = "OK" if named else "UNAVAILABLE"
                load.wait_until(lambda code=code: {result.code for result in load.results[-4:]} == {code})
        assert {result.code for result in load.failed} == {"UNAVAILABLE"}
        assert {result.attempts for result in load.failed} == {()}
        served = some[0].executions + some[1].executions
        assert served == Counter(result.request_id for result in load.results if result.code == "OK")


async def test_a_stream_on_a_host_that_left_goes_on_to_its_end(shell: Shell) -> None:
    """The connection is closed after that, and not before; no new call goes there meanwhile."""
    with servers(2) as (a, b):
        resolver = Scripted(endpoint(a))
        async with caller(shell, name="svc-a", resolver=resolver) as it:
            stream = Stream(it)
            await stream.echo(b"1")
            await rename(it, resolver, b)
            await it.ready(1)
            for _ in range(10):
                await it.unary()
            await stream.echo(b"2")
            assert connections(a) == 1
            await stream.end()
            assert [attempt.host for attempt in stream.call.mesh.attempts] == [a.address]
            del stream  # grpc.aio closes a connection when no reference to a call of it is left, ended or not
            await aio_until(lambda: connections(a) == 0, "it is closed")
            assert (a.calls[echo.UNARY], b.calls[echo.UNARY]) == (0, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_leaves_before_it_stops_costs_no_call(shell: Shell, kind: Kind) -> None:
    """A host leaves discovery and stops when its calls have ended: no call fails, without retries."""
    with servers(3) as (leaving, *others):
        resolver = Scripted(*map(endpoint, (leaving, *others)))
        with Load("svc-a", shell=shell, kind=kind, callers=6, delay=5, resolver=resolver, retry=None) as load:
            load.wait_for_ready(3)
            load.wait_until(lambda: leaving.calls.total() >= 20)
            resolver.endpoints = tuple(map(endpoint, others))
            load.channel.mesh.resolve_now()
            load.wait_until(lambda: len(load.channel.mesh.snapshot().hosts) == 2)
            begun = {f"request-{number}" for number in range(1, len(load.results) + 6 + 1)}
            load.wait_until(lambda: begun <= {result.request_id for result in load.results})
            leaving.wait_until(lambda server: server.in_flight == 0)
            count = leaving.calls.total()
            leaving.stop(grace=PATIENCE)
            load.wait_for_calls(50)
            assert leaving.calls.total() == count
        assert load.failed == []
        assert {len(result.attempts) for result in load.results} == {1}


async def test_a_server_that_stops_with_grace_loses_no_call(shell: Shell) -> None:
    """At GOAWAY calls of all kinds in flight end there, others are sent elsewhere, round after round."""
    retry = meshlib.RetryPolicy(retryable_status_codes=frozenset({"UNAVAILABLE", "CANCELLED"}))
    with servers(2) as some:
        async with caller(shell, *some, retry=retry, retry_budget=None) as it:
            start = starters(it.channel, shell)
            for stopping in some * 2:
                await it.ready(2)
                over = asyncio.Event()
                streaming = [asyncio.ensure_future(one_by_one(shell, kind, start[kind], over)) for kind in FOUR_KINDS]
                delay = ((echo.DELAY_MS, "100"),)
                held = [(kind, start[kind](REQUESTS, timeout=PATIENCE, metadata=delay)) for kind in FOUR_KINDS * 2]
                await aio_until(lambda server=stopping: server.in_flight > 0, "calls are inside")
                # grpc's server may leave a call that arrives during shutdown waiting for the end of the grace.
                await asyncio.to_thread(stopping.stop, GRACE)
                over.set()
                while held:
                    await whole(shell, *held.pop())
                await asyncio.gather(*streaming)
                stopping.start()


async def whole(shell: Shell, kind: str, call: Any) -> int:
    """Check that the call succeeds with every message; returns its number of attempts."""
    assert await all_answers(shell, kind, call) == expected(kind, REQUESTS), (kind, call.mesh)
    return len(call.mesh.attempts)


async def one_by_one(shell: Shell, kind: str, start: Any, over: asyncio.Event) -> None:
    """Make one call after the other, until ``over``."""
    while not over.is_set():
        await whole(shell, kind, start(REQUESTS, timeout=PATIENCE))
