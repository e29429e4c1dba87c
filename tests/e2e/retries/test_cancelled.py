"""CANCELLED from a stopping server is retried like UNAVAILABLE; a call cancelled by its caller is not."""

import asyncio
from typing import Any

import grpc
import pytest
from tests.e2e.callers import caller
from tests.e2e.kinds import KINDS, all_answers, expected, starters
from tests.e2e.load import SHELLS, Shell
from tests.waiting import aio_until

import meshlib
from meshlib.testing import echo, servers

PATIENCE = 10.0
pytestmark = pytest.mark.parametrize("shell", SHELLS)


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_by_the_server_before_an_answer(shell: Shell, kind: str) -> None:
    """The default policy of ``meshlib.channel`` retries it on another host, though it may have run: a client cannot
    know."""
    with servers(2) as (stopping, well):
        stopping.fault(code="CANCELLED")
        async with caller(shell, stopping, well, retry=meshlib.RetryPolicy()) as it:
            await it.ready(2)
            start = starters(it.channel, shell)[kind]
            requests = [b"x"] if kind.startswith("unary") else [b"x", b"y"]
            retried = 0
            for _ in range(6):
                call = start(requests, timeout=PATIENCE)
                assert await all_answers(shell, kind, call) == expected(kind, requests)
                first = call.mesh.attempts[0]
                retried += (first.code, first.sent) == ("CANCELLED", True)
        assert retried > 0
        assert stopping.calls.total() == retried


@pytest.mark.parametrize(
    "retry",
    [
        None,
        meshlib.RetryPolicy(unsent_only=True),
        meshlib.RetryPolicy(retryable_status_codes=["UNAVAILABLE"]),  # type: ignore[arg-type]
    ],
    ids=["None", "unsent_only", "written codes"],
)
async def test_who_did_not_ask_for_it_gets_the_servers_answer(shell: Shell, retry: meshlib.RetryPolicy | None) -> None:
    """Other policies make one attempt, and the error is the server's CANCELLED."""
    with servers(1) as (server,):
        server.fault(code="CANCELLED", details="stopping")
        async with caller(shell, server, retry=retry) as it:
            error = await it.failure()
        assert (error.code(), error.details()) == (grpc.StatusCode.CANCELLED, "stopping")
        assert len(error.mesh.attempts) == server.calls[echo.UNARY] == 1


async def test_what_its_caller_cancels_is_not_run_again(shell: Shell) -> None:
    """A call cancelled by its caller is not retried, nor counted against its host."""
    with servers(2) as both:
        for server in both:
            server.fault(hang=True)
        async with caller(shell, *both, retry=meshlib.RetryPolicy()) as it:
            await it.ready(2)
            calls: list[Any] = []
            for kind, start in starters(it.channel, shell).items():
                requests = [b"x"] if kind.startswith("unary") else [b"x", b"y"]
                calls.append(start(requests, timeout=PATIENCE))
                reading = asyncio.ensure_future(all_answers(shell, kind, calls[-1]))
                n = len(calls)
                await aio_until(lambda n=n: sum(server.calls.total() for server in both) == n, "it has arrived")  # type: ignore[misc]
                calls[-1].cancel()
                with pytest.raises((grpc.RpcError, grpc.FutureCancelledError, asyncio.CancelledError)):
                    await reading
            await aio_until(lambda: sum(host.in_flight for host in it.hosts) == 0, "all have ended")
            assert [len(call.mesh.attempts) for call in calls] == [1] * len(calls)
            assert sum(server.calls.total() for server in both) == len(calls)
            assert [host.failures for host in it.hosts] == [0, 0]


async def test_what_ends_with_its_channel_is_not_run_again(shell: Shell) -> None:
    """A call ended by its channel is not retried, although grpc reports CANCELLED for it, too."""
    with servers(1) as (server,):
        server.fault(hang=True)
        async with caller(shell, server, retry=meshlib.RetryPolicy()) as it:
            await it.ready(1)
            call = asyncio.ensure_future(it.unary())
            await aio_until(lambda: server.in_flight == 1, "it has arrived")
            closing = it.channel.close()
            if shell == "aio":
                await closing
            with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
                await call
        assert server.calls.total() == 1
