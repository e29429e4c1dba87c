"""Closing an asyncio channel: at once, gracefully, at the end of the program, and when it is collected."""

import asyncio
import gc
import subprocess
import sys
import textwrap
import weakref

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE, all_ready, target
from tests.e2e.kinds import METHODS
from tests.e2e.loops.channels import READY, hello
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.discovery import Resolution
from meshlib.testing import Server, echo, servers


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

        await aio_until(collected, "nothing holds the runtime")


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
        await aio_until(lambda call=call: [a.code for a in call.mesh.attempts] == ["UNAVAILABLE"], "it backs off")
        assert not call.done()
        assert channel.mesh.snapshot().retries_held == 1
        await channel.close()
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert len(call.mesh.attempts) == 1
        gone = weakref.ref(call)
        del call
        await aio_until(lambda: gc.collect() >= 0 and gone() is None, "no timer holds the call")
        assert sum(server.calls.total() for server in fleet) == 1
