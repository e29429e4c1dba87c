"""A call refused by a stopping server is sent to another one, uncounted, whatever the retry policy (gRFC A6)."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tests.e2e.callers import caller
from tests.e2e.few_streams import FewStreamsServer
from tests.e2e.goaway import GoawayServer
from tests.e2e.load import SHELLS, Shell

import meshlib
import meshlib.aio
from meshlib.testing import Server, echo


def _why(attempts: object) -> list[tuple[str, bool]]:
    return [(attempt.why, attempt.sent) for attempt in attempts]  # type: ignore[attr-defined]


EXPECTED = [("first", False), ("refused", True)]


def test_a_refused_call_goes_on_without_a_retry_policy() -> None:
    """GOAWAY said that it was not processed: it may run elsewhere even if it must not run twice."""
    with GoawayServer() as stopping, Server() as server:
        target = f"static:///{stopping.address},{server.address}"
        with meshlib.channel(target, retry=None) as channel:
            unary = channel.unary_unary(echo.UNARY)
            future = unary.future(b"x", timeout=10, wait_for_ready=True)
            assert future.result(timeout=10) == b"x"
            seen = [_why(future.mesh.attempts)]  # type: ignore[attr-defined]
            while stopping.refused == 0:  # the other host was connected first
                _, call = unary.with_call(b"x", timeout=10)
                seen.append(_why(call.mesh.attempts))
        assert stopping.refused == 1
        assert EXPECTED in seen


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_refused_stream_ends(kind: str) -> None:
    """A stream refused by GOAWAY, without a second connection, ends. grpc's own ``next()`` blocks forever in a third of
    these cases: it has the status, and waits for a message that is never sent."""
    for _ in range(10):
        with (
            Server(),  # an older grpcio connects at once only where a server polls for it: see test_only_channel.py
            GoawayServer() as stopping,
            meshlib.channel(f"static:///{stopping.address}", retry=None) as channel,
        ):
            if kind == "unary_stream":
                call = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=5)
            else:
                call = channel.stream_stream(echo.BIDI_STREAM)(iter([b"x", b"y"]), timeout=5)
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert [host.in_flight for host in channel.mesh.snapshot().hosts] == [0]


def test_the_same_in_asyncio() -> None:
    """The same in asyncio: one machine decides for both."""

    async def main() -> list[list[tuple[str, bool]]]:
        target = f"static:///{stopping.address},{server.address}"
        async with meshlib.aio.channel(target, retry=None) as channel:
            seen = []
            while stopping.refused == 0:
                # The other host may not be connected yet when the first call is refused.
                call = channel.unary_unary(echo.UNARY)(b"x", timeout=10, wait_for_ready=True)
                assert await call == b"x"
                seen.append(_why(call.mesh.attempts))  # type: ignore[attr-defined]
            return seen

    with GoawayServer() as stopping, Server() as server:
        assert EXPECTED in asyncio.run(main())


@pytest.mark.parametrize("shell", SHELLS)
async def test_calls_that_wait_for_their_turn_on_a_connection_that_goes_away(shell: Shell) -> None:
    """C-core resends queued calls on the next connection: hardly any is a meshlib attempt, none fails, and no host is
    ejected. Only its own transparent retries can tell that no server has seen them."""
    retry = meshlib.RetryPolicy(max_attempts=20, initial_backoff=0.001, max_backoff=0.002)
    with FewStreamsServer(at_once=4, calls=12) as server, ThreadPoolExecutor(40) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        async with caller(shell, name=f"static:///{server.address}", retry=retry, retry_budget=None) as it:
            await it.ready(1)

            async def five() -> list[int]:
                return [len((await it.unary())[1].attempts) for _ in range(5)]

            counts = await asyncio.gather(*(five() for _ in range(40)))
            (host,) = it.hosts
            assert host.ejected_for == ""
            # A call in transit at GOAWAY is resent once by C-core, and then by us.
            assert sum(map(sum, counts)) < 2 * 200
        assert server.connections > 10
