"""One measurement for each call, and what is read on request."""

import asyncio
import gc

from tests.e2e.load import Shell
from tests.e2e.telemetry.recording import DEADLINE, METHODS, Metrics, all_kinds, both_shells, call, static
from tests.waiting import until

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo, servers

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


@all_kinds
@both_shells
def test_one_measurement_for_each_call(shell: Shell, kind: str, metrics: Metrics) -> None:
    """The whole duration, including retries, in the buckets of the conventions; a failure is another series."""
    with Server() as server:
        target = static(server)
        server.fault(code="UNAVAILABLE", times=1)
        assert call(shell, kind, target, meter_provider=metrics.provider) == "OK"
        server.fault(code="NOT_FOUND", times=1)
        assert call(shell, kind, target, meter_provider=metrics.provider) == "NOT_FOUND"
    common = {
        "rpc.system.name": "grpc",
        "rpc.method": METHODS[kind].removeprefix("/"),
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    points = metrics.points("rpc.client.call.duration")
    assert points.keys() == {
        frozenset({**common, "rpc.response.status_code": "OK"}.items()),
        frozenset({**common, "rpc.response.status_code": "NOT_FOUND", "error.type": "NOT_FOUND"}.items()),
    }
    for point in points.values():
        assert (point.count, point.explicit_bounds) == (1, BOUNDS)
        assert 0 < point.sum < DEADLINE


@both_shells
def test_hosts_and_calls_under_way_are_read_when_asked_for(shell: Shell, metrics: Metrics) -> None:
    """Hosts by state and attempts in flight; none after close, no series after collection."""

    def hosts() -> dict[str, int]:
        return metrics.values("meshlib.hosts", "meshlib.host.state")

    def check() -> None:
        until(lambda: hosts().get("TRANSIENT_FAILURE") == 1)
        assert hosts() == {"IDLE": 0, "CONNECTING": 0, "READY": 1, "TRANSIENT_FAILURE": 1}
        # A target other than a single name and address is its own name.
        assert metrics.values("meshlib.attempts.in_flight", "server.address") == {target: 1}
        assert metrics.values("meshlib.retry.refusals", "server.address") == {target: 0}

    def in_threads() -> None:
        with meshlib.channel(target, meter_provider=metrics.provider) as channel:
            future = channel.unary_unary(echo.UNARY).future(b"x", timeout=DEADLINE)
            up.wait_until(lambda server: server.in_flight == 1)
            check()
            up.heal()
            future.result(DEADLINE)
        assert set(hosts().values()) == {0}

    async def in_asyncio() -> None:
        async with aio.channel(target, meter_provider=metrics.provider) as channel:
            made = channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            await asyncio.to_thread(up.wait_until, lambda server: server.in_flight == 1)
            await asyncio.to_thread(check)
            up.heal()
            await made
        assert set(hosts().values()) == {0}

    with servers(2) as (up, down):
        down.stop()
        target = static(up, down)
        up.fault(hang=True)
        if shell == "aio":
            asyncio.run(in_asyncio())
        else:
            in_threads()
    gc.collect()
    assert hosts() == {}


def test_two_channels_share_the_instruments_of_a_provider(metrics: Metrics) -> None:
    """Both are measured, each under its target, and no instrument is created twice."""
    with servers(2) as (a, b):
        for server in (a, b):
            assert call("sync", "unary_unary", static(server), meter_provider=metrics.provider) == "OK"
    assert {dict(key)["server.port"] for key in metrics.points("rpc.client.call.duration")} == {a.port, b.port}
