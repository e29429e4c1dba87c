"""The cost of a frozen host, or one behind a black hole: its connection stays open, and no data arrives."""

import time
from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import all_ready, channel_to
from tests.e2e.relay import Relay
from tests.e2e.sync_mesh import WAIT, mesh
from tests.waiting import until

import meshlib
from meshlib.testing import ProcessServer, Server, echo

CALLS = 8
TIMEOUT = 1.0
PER_ATTEMPT = meshlib.RetryPolicy(per_attempt_timeout=0.2)


def _connect(channel: Any, hosts: int) -> None:
    grpc.channel_ready_future(channel).result(WAIT)
    until(lambda: sum(host.state == "READY" for host in channel.mesh.snapshot().hosts) == hosts)


def _unary(channel: Any) -> tuple[str, float, int]:
    began = time.monotonic()
    call = channel.unary_unary(echo.UNARY).future(b"x", timeout=TIMEOUT)
    code = call.code().name
    return code, time.monotonic() - began, len(call.mesh.attempts)


def test_without_a_timeout_per_attempt_a_frozen_host_keeps_its_calls_to_their_deadline() -> None:
    """Every second call goes there, and ends DEADLINE_EXCEEDED at its deadline after one attempt: an open connection is
    no failure, so there is no retry."""
    with ProcessServer() as frozen, Server() as well, meshlib.channel(_target(frozen, well)) as channel:
        _connect(channel, 2)
        frozen.pause()
        ends = [_unary(channel) for _ in range(4)]
        assert sorted(code for code, _, _ in ends) == ["DEADLINE_EXCEEDED"] * 2 + ["OK"] * 2
        assert all(attempts == 1 for _, _, attempts in ends)
        assert all(seconds >= TIMEOUT - 0.01 for code, seconds, _ in ends if code != "OK")


def test_with_a_timeout_per_attempt_it_costs_that_time_and_no_call() -> None:
    """The other host answers: a call sent to the frozen one makes a second attempt. Every call may be sent there, since
    a retry takes a turn of the picker too."""
    with (
        ProcessServer() as frozen,
        Server() as well,
        meshlib.channel(_target(frozen, well), retry=PER_ATTEMPT) as channel,
    ):
        _connect(channel, 2)
        frozen.pause()
        ends = [_unary(channel) for _ in range(CALLS)]
        assert [code for code, _, _ in ends] == ["OK"] * CALLS
        assert {attempts for _, _, attempts in ends} <= {1, 2}


async def test_the_same_in_asyncio() -> None:
    """A frozen host costs the same in asyncio, without and with a timeout per attempt."""
    with ProcessServer() as frozen, Server() as well:
        for retry, expected in ((meshlib.RetryPolicy(), {"DEADLINE_EXCEEDED", "OK"}), (PER_ATTEMPT, {"OK"})):
            async with channel_to(frozen, well, retry=retry) as channel:
                await all_ready(channel, 2)
                frozen.pause()
                calls = [channel.unary_unary(echo.UNARY)(b"x", timeout=TIMEOUT) for _ in range(4)]
                assert {(await call.code()).name for call in calls} == expected
                frozen.resume()


@pytest.mark.parametrize("budget", [None, meshlib.RetryBudget(budget_percent=0, min_retry_concurrency=1)])
def test_a_budget_limits_the_retries_of_calls_that_a_black_hole_swallowed(budget: meshlib.RetryBudget | None) -> None:
    """The host is not lost, unlike a dead one, so retries beyond the budget fail; without a budget no call does."""
    with Server() as well, Server() as far, Relay(far.address) as relay:
        target = f"static:///{relay.address},{well.address}"
        with meshlib.channel(target, retry=PER_ATTEMPT, retry_budget=budget) as channel:
            _connect(channel, 2)
            relay.hold()
            calls = [channel.unary_unary(echo.UNARY).future(b"x", timeout=5) for _ in range(CALLS)]
            codes = [call.code().name for call in calls]  # type: ignore[attr-defined]
            assert set(codes) == ({"OK"} if budget is None else {"OK", "DEADLINE_EXCEEDED"}), codes
            refused = channel.mesh.snapshot().retries_refused
            assert refused == codes.count("DEADLINE_EXCEEDED")
            relay.release()


def test_a_stream_that_is_cut_after_its_first_message_fails_and_one_that_is_not_goes_on() -> None:
    """A stream reset after a delivered message cannot be retried."""
    with Server() as far, Relay(far.address) as relay, mesh(relay) as channel:  # type: ignore[arg-type]
        far.fault(method=echo.SERVER_STREAM, after=1, delay=0.2)
        call: Any = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=5)
        assert next(call) == b"x"
        relay.reset()
        assert call.code().name == "UNAVAILABLE"
        assert call.mesh.why == "the application had already received a message"
        far.heal()
        assert list(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=5, wait_for_ready=True)) == [b"x"] * 3


def _target(*some: Any) -> str:
    return "static:///" + ",".join(server.address for server in some)
