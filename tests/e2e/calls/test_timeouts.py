"""Timeouts too long for C-core, or that leave no time: no healthy host is ejected for them."""

import math

import grpc
import pytest
from tests.e2e.callers import caller
from tests.e2e.kinds import KINDS, all_answers, expected, starters
from tests.e2e.load import SHELLS, Shell

import meshlib
from meshlib.testing import echo, servers

pytestmark = pytest.mark.parametrize("shell", SHELLS)

DETECTION = meshlib.OutlierDetection(consecutive_gateway_failure=1)


@pytest.mark.parametrize("seconds", [math.inf, 1e10, 1e300])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_very_long_timeout(shell: Shell, kind: str, seconds: float) -> None:
    """The call is answered. With grpc its deadline has passed at once."""
    with servers(1) as (server,):
        async with caller(shell, server, outlier_detection=DETECTION, retry=None) as it:
            requests = [b"x"] if kind.startswith("unary") else [b"x", b"y"]
            call = starters(it.channel, shell)[kind](requests, timeout=seconds)
            assert await all_answers(shell, kind, call) == expected(kind, requests)
            assert [host.ejected_for for host in it.hosts] == [""]


async def test_a_very_long_timeout_of_a_blocking_call(shell: Shell) -> None:
    """The short path, and a wait for a host, take such a timeout too."""
    with servers(1) as (server,):
        async with caller(shell, server) as it:
            for timeout in (math.inf, 1e10):
                await it.unary(timeout=timeout, wait_for_ready=True)


async def test_a_timeout_that_is_no_number(shell: Shell) -> None:
    """It is rejected locally: nothing was sent."""
    with servers(1) as (server,):
        async with caller(shell, server, outlier_detection=DETECTION) as it:
            await it.ready(1)
            error = await it.failure(timeout=math.nan)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details().startswith("timeout=nan is not a number of seconds")
            assert (error.mesh.local, error.mesh.attempts) == (True, ())
        assert server.calls[echo.UNARY] == 0


async def test_timeouts_that_leave_no_time(shell: Shell) -> None:
    """However such calls end, their host stays healthy."""
    with servers(1) as (server,):
        async with caller(shell, server, outlier_detection=DETECTION, retry=None) as it:
            await it.ready(1)
            server.fault(hang=True)
            for timeout in (-1.0, 0.0, 1e-9, 1e-6, 1e-4, 5e-4):
                error = await it.failure(timeout=timeout)
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            (host,) = it.hosts
            assert (host.failures, host.ejected_for) == (0, "")
