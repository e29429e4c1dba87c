"""The asyncio channel itself: loops, closing, connectivity, collection, interceptors."""

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import weakref
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, QUICK, all_ready, channel_to, in_flight, target, until
from tests.e2e.kinds import METHODS

import meshlib
import meshlib.aio
from meshlib.discovery import Resolution
from meshlib.testing import Server, echo, servers

IDLE = grpc.ChannelConnectivity.IDLE
READY = grpc.ChannelConnectivity.READY
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


async def hello(channel: Any) -> Any:
    """Make one successful call."""
    return await channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)


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


async def test_closing_ends_what_is_under_way_at_once() -> None:
    """Close cancels calls in flight, queued and streaming at once, and every wait for a state ends."""
    with Server() as server:
        server.fault(hang=True)
        channel = meshlib.aio.channel(target(server))
        dead = meshlib.aio.channel("static:///127.0.0.1:1")
        await all_ready(channel, 1)
        calls = [
            channel.unary_unary(echo.UNARY)(b"x"),
            channel.unary_stream(echo.SERVER_STREAM)(b"x"),
            dead.unary_unary(echo.UNARY)(b"x", wait_for_ready=True),
        ]
        ready = asyncio.ensure_future(dead.channel_ready())
        changed = asyncio.ensure_future(channel.wait_for_state_change(READY))
        await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 2)
        await channel.close()
        await dead.close()
        assert [call.cancelled() for call in calls] == [True] * 3
        for call in (calls[0], calls[2]):
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await call.details() == "Locally cancelled by application!"
        with pytest.raises(asyncio.CancelledError):
            await calls[1].read()
        await changed
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            await ready
        await channel.close()
        for call in (channel.unary_unary(echo.UNARY), channel.unary_stream(echo.SERVER_STREAM)):
            with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
                call(b"x")
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            await channel.wait_for_state_change(READY)


async def test_grace_lets_calls_end() -> None:
    """Calls that end within the grace succeed; new ones are rejected meanwhile; a negative grace is an error."""
    with Server() as server:
        channel = meshlib.aio.channel(target(server))
        await all_ready(channel, 1)
        with pytest.raises(ValueError, match="grace must be non-negative, got -1"):
            await channel.close(-1)
        stub = channel.unary_unary(echo.UNARY)
        quick = stub(b"x", metadata=((echo.DELAY_MS, "50"),))
        await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
        closing = asyncio.ensure_future(channel.close(PATIENCE))
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            stub(b"x")
        assert await quick == b"x"
        await closing
        other = meshlib.aio.channel(target(server))
        server.fault(hang=True)
        hanging = other.unary_unary(echo.UNARY)(b"x")
        await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
        await other.close(0.01)
        assert hanging.cancelled()


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


async def test_an_unclosed_channel_that_is_collected_closes() -> None:
    """Channel, stub and calls share the connections; they close when the last of these is collected."""
    with Server() as server:
        channel = meshlib.aio.channel(target(server))
        gone = weakref.ref(channel)
        stub = channel.unary_unary(echo.UNARY)
        assert await stub(b"x", timeout=PATIENCE) == b"x"
        del channel
        gc.collect()
        assert gone() is None
        call = stub(b"x", metadata=((echo.DELAY_MS, "20"),))
        del stub
        gc.collect()
        assert await call == b"x"
        runtime = weakref.ref(call.runtime)
        del call

        def collected() -> bool:
            gc.collect()
            return runtime() is None

        await until(collected, "nothing holds the runtime")


async def test_multicallables_are_made_once() -> None:
    """A second request for the same method costs nothing and loses nothing."""
    async with meshlib.aio.channel("static:///127.0.0.1:1") as channel:
        assert channel.unary_unary("/a/b", bytes, bytes) is channel.unary_unary("/a/b", bytes, bytes)
        for n in range(3000):
            channel.unary_unary(f"/a/{n}")
        assert channel.unary_unary("/a/b", [].append, _registered_method=True) is not None


def test_an_application_that_closes_nothing_ends_quietly() -> None:
    """No hang and no complaint at the end of the loop and of the interpreter."""
    with Server() as server:
        script = f"""
            import asyncio, meshlib.aio
            channel = meshlib.aio.channel({target(server)!r})
            async def main():
                print(await channel.unary_unary({echo.UNARY!r})(b"x", timeout=10))
            asyncio.run(main())
            asyncio.run(main())
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "GRPC_VERBOSITY": "ERROR"},
        )
        assert (done.stdout, done.stderr) == ("b'x'\nb'x'\n", "")


async def test_two_hundred_cycles_leave_nothing() -> None:
    """Open, call, close: the check around every test compares tasks, threads and descriptors afterwards."""
    with Server() as server:
        for _ in range(200):
            async with meshlib.aio.channel(target(server)) as channel:
                assert await hello(channel) == b"x"


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
            await until(lambda: in_flight(channel) == 0, "places are freed")
            assert sorted(map(id, told)) == sorted(map(id, calls))
            assert {code.name for code in codes} >= {"OK", "NOT_FOUND", "CANCELLED"}
            snapshot = channel.mesh.snapshot()
            assert snapshot.retries_held == 0


class Everywhere(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """Serves all four kinds and counts."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def _mark(self, kind: str, details: Any) -> Any:
        self.seen.append(kind)
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("seen", kind))
        return details._replace(metadata=metadata)

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._mark("unary_unary", client_call_details), request)

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._mark("unary_stream", client_call_details), request)

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._mark("stream_unary", client_call_details), request_iterator)

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._mark("stream_stream", client_call_details), request_iterator)


@pytest.mark.parametrize("scope", ["interceptors", "attempt_interceptors"])
async def test_one_interceptor_serves_all_kinds(scope: str) -> None:
    """One interceptor runs once per call, or once per attempt; both styles of streams work through it."""
    with servers(2) as (a, b):
        for server in (a, b):
            server.fault(code="UNAVAILABLE", times=1)
        marker = Everywhere()
        async with channel_to(a, b, retry=QUICK, **{scope: [marker]}) as channel:
            await all_ready(channel, 2)
            assert await hello(channel) == b"x"
            assert marker.seen == ["unary_unary"] * (1 if scope == "interceptors" else 3)
            marker.seen.clear()
            call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            assert [message async for message in call] == [b"x"] * 3
            call = channel.stream_unary(echo.CLIENT_STREAM)(iter([b"1", b"2"]), timeout=PATIENCE)
            assert await call == b"12"
            call = channel.stream_unary(echo.CLIENT_STREAM)(timeout=PATIENCE)
            await call.write(b"1")
            await call.done_writing()
            assert await call == b"1"
            call = channel.stream_stream(echo.BIDI_STREAM)(timeout=PATIENCE)
            await call.write(b"1")
            assert await call.read() == b"1"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert marker.seen == ["unary_stream", "stream_unary", "stream_unary", "stream_stream"]
        received = [value for s in (a, b) for r in s.received for key, value in r.metadata if key == "seen"]
        assert len(received) == len(a.received) + len(b.received)


async def test_interceptors_may_change_the_method_and_fail_the_call() -> None:
    """The innermost call is the mesh's: errors, closing and cancelling reach it."""

    class Other(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await continuation(client_call_details._replace(method=echo.UNARY.encode()), request)

    with Server() as server:
        channel = meshlib.aio.channel(target(server), interceptors=[Other()])
        for _ in range(3):
            assert await channel.unary_unary("/nobody/Home")(b"x", timeout=PATIENCE) == b"x"
        (host,) = channel._lease.runtime().cluster.hosts
        subchannel: Any = host.subchannel
        assert len(subchannel.multicallables) == 1, "one method, made once"
        server.fault(code="NOT_FOUND", times=1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        server.fault(hang=True)
        call = channel.unary_unary(echo.UNARY)(b"x")
        await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
        await channel.close()
        assert call.cancelled()
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            channel.unary_unary(echo.UNARY)(b"x")


def test_what_is_no_interceptor_is_refused() -> None:
    """A non-interceptor is rejected at construction, as in grpc.aio."""
    with pytest.raises(ValueError, match="must be a UnaryUnaryClientInterceptor or"):
        meshlib.aio.channel("static:///127.0.0.1:1", interceptors=[object()])
    with pytest.raises(ValueError, match="must be a UnaryUnaryClientInterceptor or"):
        meshlib.aio.channel("static:///127.0.0.1:1", attempt_interceptors=[object()])


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


class Never:
    """A resolver that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def resolve(self, previous: Resolution | None) -> Resolution:
        self.asked.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_closing_in_a_look_up_leaves_nothing(kind: str) -> None:
    """Closing cancels the lookup with the call that waits for it; the check around the test counts tasks."""
    resolver = Never()
    channel = meshlib.aio.channel("svc-a", resolver=resolver)
    call = getattr(channel, kind)(METHODS[kind])(b"x")
    async with asyncio.timeout(PATIENCE):
        await resolver.asked.wait()
        await channel.close()
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await resolver.cancelled.wait()
    assert call.mesh.attempts == ()


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_closing_in_a_back_off_leaves_nothing(kind: str) -> None:
    """No further attempt is made, and the backoff timer is cancelled with the call."""
    slow = meshlib.RetryPolicy(initial_backoff=600.0, max_backoff=600.0)
    with servers(2) as fleet:
        for server in fleet:
            server.fault(code="UNAVAILABLE")
        channel = meshlib.aio.channel(target(*fleet), retry=slow)
        call = getattr(channel, kind)(METHODS[kind])(b"x")
        await until(lambda call=call: [a.code for a in call.mesh.attempts] == ["UNAVAILABLE"], "it backs off")
        assert not call.done()
        assert channel.mesh.snapshot().retries_held == 1
        await channel.close()
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert len(call.mesh.attempts) == 1
        gone = weakref.ref(call)
        del call
        await until(lambda: gc.collect() >= 0 and gone() is None, "no timer holds the call")
        assert sum(server.calls.total() for server in fleet) == 1
