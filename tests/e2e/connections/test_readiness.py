"""Waiting for a channel to be ready polls it often, however rarely it was polled before."""

import asyncio
from typing import Any

import grpc
from tests.waiting import until

import meshlib
from meshlib import aio
from meshlib._core.connectivity_poll import POLL_LAST, QUIET
from meshlib.testing import ProcessServer, echo

DEADLINE = 10.0


def gap(runtime: Any) -> float:
    """Seconds to the next poll of the connections."""
    return float(runtime.cluster._poll._gap)


def test_a_channel_that_nobody_calls_is_looked_at_rarely_until_somebody_waits() -> None:
    """Its only host is down, which does not change the interval."""
    with ProcessServer() as server, meshlib.channel(f"static:///{server.address}", retry=None) as channel:
        channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
        runtime = channel._plain.lease.present
        server.kill()
        until(lambda: channel.mesh.snapshot().hosts[0].state == "TRANSIENT_FAILURE")
        until(lambda: gap(runtime) == QUIET)
        ready = grpc.channel_ready_future(channel)
        until(lambda: gap(runtime) == POLL_LAST)
        server.start()
        ready.result(DEADLINE)


async def test_a_channel_that_nobody_calls_is_looked_at_rarely_until_somebody_waits_in_asyncio() -> None:
    """The same in asyncio."""
    with ProcessServer() as server:
        async with aio.channel(f"static:///{server.address}", retry=None) as channel:
            await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            runtime = channel._lease.present
            server.kill()
            await asyncio.to_thread(until, lambda: channel.mesh.snapshot().hosts[0].state == "TRANSIENT_FAILURE")
            await asyncio.to_thread(until, lambda: gap(runtime) == QUIET)
            ready = asyncio.ensure_future(channel.channel_ready())
            await asyncio.to_thread(until, lambda: gap(runtime) == POLL_LAST)
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(ready, DEADLINE)


def test_channels_at_rest_share_a_timer_and_see_what_happens() -> None:
    """Each is polled again, and returns to its own pace when it is called or its server stops."""
    with ProcessServer() as kept, ProcessServer() as lost:
        channels = [meshlib.channel(f"static:///{server.address}") for server in (kept, lost, kept, lost)]
        try:
            for channel in channels:
                channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            drivers = [channel._plain.lease.present.driver for channel in channels]
            until(lambda: all(driver._timer is None for driver in drivers))
            assert len({id(driver._rest) for driver in drivers}) == 1
            lost.kill()
            states = [["READY"], ["TRANSIENT_FAILURE"]] * 2
            until(lambda: [[h.state for h in channel.mesh.snapshot().hosts] for channel in channels] == states)
            channels[0].unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            until(lambda: drivers[0]._timer is not None)
        finally:
            for channel in channels:
                channel.close()
        assert not drivers[0]._rest._at
