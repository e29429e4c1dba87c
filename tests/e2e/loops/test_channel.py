"""The asyncio channel itself: its loops, its connectivity, and many calls on one loop."""

import asyncio
import threading
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, all_ready, channel_to, in_flight, target
from tests.e2e.loops.channels import READY, hello
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.discovery import Resolution
from meshlib.testing import Server, echo, servers

IDLE = grpc.ChannelConnectivity.IDLE
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


def test_a_channel_is_made_anywhere_and_follows_its_loop() -> None:
    """A channel made without a loop serves the loop of its first call, and after that loop is closed the next one."""
    with Server() as server:
        channel = meshlib.aio.channel(target(server))
        stub = channel.unary_unary(echo.UNARY)

        async def twice() -> None:
            assert await stub(b"x", timeout=PATIENCE) == b"x"
            assert await stub(b"x", timeout=PATIENCE) == b"x"

        asyncio.run(twice())
        asyncio.run(twice())

        async def last() -> None:
            await twice()
            await channel.close()

        asyncio.run(last())
        assert channel.get_state() is SHUTDOWN
        assert len(server.received) == 6


def test_a_second_open_loop_is_told_so() -> None:
    """The error names the problem and the remedy; the first loop keeps working."""
    with Server() as server:
        channel = meshlib.aio.channel(target(server))
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        try:
            assert first.run_until_complete(hello(channel)) == b"x"
            with pytest.raises(grpc.aio.UsageError, match="Make one channel per event loop"):
                second.run_until_complete(hello(channel))
            assert first.run_until_complete(hello(channel)) == b"x"
            first.run_until_complete(channel.close())
        finally:
            first.close()
            second.close()


async def test_nothing_is_begun_before_the_first_call() -> None:
    """No task and no connection before the first call; asking for the state changes nothing."""
    before = asyncio.all_tasks()
    channel = meshlib.aio.channel("static:///127.0.0.1:1")
    channel.unary_unary(echo.UNARY)
    assert channel.get_state() is IDLE
    assert asyncio.all_tasks() == before
    assert channel.mesh.snapshot().state == "IDLE"
    await channel.close()
    assert channel.get_state(try_to_connect=True) is SHUTDOWN


async def test_the_state_is_that_of_the_service() -> None:
    """The state is IDLE until used, READY with a host, and a wait ends when it changes."""
    with Server() as server:
        async with channel_to(server) as channel:
            assert channel.get_state(try_to_connect=True) is IDLE
            async with asyncio.timeout(PATIENCE):
                await channel.channel_ready()
                assert channel.get_state() is READY
                await asyncio.to_thread(server.stop)
                await channel.wait_for_state_change(READY)
                assert channel.get_state() is not READY
                server.start()
                await channel.channel_ready()
            assert "READY: 1 of 1 hosts ready" in repr(channel)


async def test_a_wait_that_began_first_is_not_lost() -> None:
    """A wait for a state that starts before the channel's first use works like one after it."""
    with Server() as server:
        async with channel_to(server) as channel:
            changed = asyncio.ensure_future(channel.wait_for_state_change(IDLE))
            await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE):
                await channel.channel_ready()
                await changed


def test_a_wait_on_the_next_loop_is_for_a_state_of_that_loop() -> None:
    """A channel whose loop was closed is IDLE for the next waiter, even before a call."""
    with Server() as server:
        channel = meshlib.aio.channel(target(server))

        async def used() -> None:
            assert await hello(channel) == b"x"
            assert channel.get_state() is READY

        async def waited() -> None:
            async with asyncio.timeout(PATIENCE):
                await channel.wait_for_state_change(READY)
                changed = asyncio.ensure_future(channel.wait_for_state_change(IDLE))
                await asyncio.sleep(0)
                assert not changed.done()
                assert await hello(channel) == b"x"
                await changed
            await channel.close()

        asyncio.run(used())
        asyncio.run(waited())


async def test_call_credentials_need_a_secure_channel() -> None:
    """Call credentials are rejected at the call, as in grpc.aio."""
    async with meshlib.aio.channel("static:///127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.UsageError, match="Call credentials are only valid on secure channels"):
            channel.unary_unary(echo.UNARY)(b"x", credentials=grpc.access_token_call_credentials("token"))


async def test_multicallables_are_made_once() -> None:
    """A second request for the same method costs nothing and loses nothing."""
    async with meshlib.aio.channel("static:///127.0.0.1:1") as channel:
        assert channel.unary_unary("/a/b", bytes, bytes) is channel.unary_unary("/a/b", bytes, bytes)
        for n in range(3000):
            channel.unary_unary(f"/a/{n}")
        assert channel.unary_unary("/a/b", [].append, _registered_method=True) is not None


async def test_every_call_ends_once_under_stress(rng: Any) -> None:
    """Hundreds of calls with failures, cancels and deadlines get one callback each, and no in-flight count leaks."""
    with servers(3) as fleet:
        for server in fleet:
            for _ in range(40):
                server.fault(code=rng.choice(["UNAVAILABLE", "NOT_FOUND"]), delay=rng.random() / 200, times=2)
                server.fault(times=rng.randrange(1, 4))
        async with channel_to(*fleet) as channel:
            await all_ready(channel, 3)
            told: list[Any] = []
            calls = []
            for _ in range(400):
                call = channel.unary_unary(echo.UNARY)(b"x", timeout=rng.choice([0.002, PATIENCE, None]))
                call.add_done_callback(told.append)
                calls.append(call)
                if rng.random() < 0.2:
                    asyncio.get_running_loop().call_later(rng.random() / 50, call.cancel)
                if rng.random() < 0.1:
                    await asyncio.sleep(rng.random() / 200)
            async with asyncio.timeout(PATIENCE):
                codes = await asyncio.gather(*(call.code() for call in calls))
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")
            assert sorted(map(id, told)) == sorted(map(id, calls))
            assert {code.name for code in codes} >= {"OK", "NOT_FOUND", "CANCELLED"}
            snapshot = channel.mesh.snapshot()
            assert snapshot.retries_held == 0


def test_loops_in_several_threads_have_a_channel_each() -> None:
    """Loops share nothing but the process."""
    results: list[Any] = []
    with Server() as server:

        async def main() -> None:
            async with meshlib.aio.channel(target(server)) as channel:
                results.append(await hello(channel))

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert results == [b"x"] * 3


@pytest.mark.parametrize("ask", ["await", "code", "read"])
async def test_a_caller_that_is_refused_again_and_again_lets_others_run(ask: str) -> None:
    """Every call takes a turn of the loop, as in grpc.aio, so that a callback that helps the next call runs."""
    refused = [grpc.StatusCode.UNAVAILABLE]
    async with meshlib.aio.channel("svc-a", resolver=Nothing(), dns=meshlib.DnsPolicy(allow_empty=True)) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="has no endpoints"):
            await hello(channel)
        turns: list[None] = []
        asyncio.get_running_loop().call_soon(turns.append, None)
        try:
            if ask == "await":
                await hello(channel)
            elif ask == "code":
                refused.append(await channel.unary_unary(echo.UNARY)(b"x").code())
            else:
                await channel.unary_stream(echo.SERVER_STREAM)(b"x").read()
        except grpc.aio.AioRpcError as error:
            refused.append(error.code())
        assert refused == [grpc.StatusCode.UNAVAILABLE] * 2
        assert turns == [None]


class Nothing:
    """A resolver that returns no endpoint."""

    def resolve(self, previous: Resolution | None) -> Resolution:
        return Resolution(endpoints=())
