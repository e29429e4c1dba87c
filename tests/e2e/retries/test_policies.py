"""Policies on real servers and through both shells."""

import asyncio
import json
import logging

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE
from tests.e2e.callers import QUICK, caller, read_all, reader
from tests.e2e.load import SHELLS, Shell
from tests.waiting import aio_until

import meshlib
import meshlib.aio
from meshlib.testing import Server, echo, flush_logs, servers

pytestmark = pytest.mark.parametrize("shell", SHELLS)


def sent(server: Server, key: str) -> list[str]:
    """The values of request metadata that reached a server, call by call."""
    return [dict(received.metadata).get(key, "") for received in server.received]


async def test_servers_see_which_attempt_it_is(shell: Shell) -> None:
    """gRFC A6: absent from the first attempt, then the number of those before. C-core strips it from the metadata while
    its own transparent retries are on."""
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE", times=2)
        async with caller(shell, server, options=[("grpc.enable_retries", 0)]) as it:
            await it.unary()
        assert sent(server, "grpc-previous-rpc-attempts") == ["", "1", "2"]


async def test_a_service_config_retries(shell: Shell) -> None:
    """A service config may set more attempts than C-core's five, and a code of its own."""
    policy = {"maxAttempts": 7, "initialBackoff": "0.001s", "maxBackoff": "0.002s", "backoffMultiplier": 1,
              "retryableStatusCodes": ["ABORTED"]}  # fmt: skip
    config = json.dumps({"methodConfig": [{"name": [{"service": echo.SERVICE}], "retryPolicy": policy}]})
    with servers(1) as (server,):
        server.fault(code="ABORTED", times=6)
        async with caller(shell, server, options=[("grpc.service_config", config)]) as it:
            _, mesh = await it.unary()
        assert len(mesh.attempts) == 7
        server.fault(code="UNAVAILABLE", times=1)
        async with caller(shell, server, service_config=config) as it:
            error = await it.failure()
        assert error.mesh.why == "UNAVAILABLE is not retried"


async def test_retries_are_throttled(shell: Shell) -> None:
    """A service that keeps failing gets no more retries, and calls say why."""
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE")
        throttling = meshlib.RetryThrottling(max_tokens=4, token_ratio=0.1)
        async with caller(shell, server, retry_budget=throttling) as it:
            attempts = [len((await it.failure()).mesh.attempts) for _ in range(4)]
            assert attempts == [2, 1, 1, 1]
            error = await it.failure()
        assert "retryThrottling" in error.mesh.why


async def test_a_bad_host_is_ejected_and_comes_back(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """Only the calls that detect it are retried; then none, until the host recovers and the ejection ends."""
    detection = meshlib.OutlierDetection(interval=0.2, base_ejection_time=0.3)
    with servers(3) as (bad, *good), caplog.at_level(logging.INFO, "meshlib"):
        bad.fault(code="UNAVAILABLE")
        async with caller(shell, bad, *good, outlier_detection=detection) as it:
            await it.ready(3)
            ejected = []
            while not ejected:
                _, mesh = await it.unary()
                ejected = [attempt.ejected for attempt in mesh.attempts if attempt.ejected]
            assert ejected == ["5 gateway failures in a row, last=UNAVAILABLE"]
            assert bad.calls.total() == 5
            shown = {host.address: host for host in it.hosts}[bad.address]
            assert shown.ejected_for == ejected[0]
            assert shown.state == "READY"
            bad.heal()
            await aio_until(lambda: all(host.ejected_until is None for host in it.hosts), "the host is back")
            before = bad.calls.total()
            while bad.calls.total() == before:
                await it.unary()
            assert it.channel.mesh.snapshot().retries >= 5
    flush_logs()
    said = [record.getMessage() for record in caplog.records if bad.address in record.getMessage()]
    assert any(f"{bad.address} ejected: duration=0.3 s, reason=5 gateway failures" in line for line in said)
    assert any(f"{bad.address} returned from outlier ejection" in line for line in said)


async def test_the_log_tells_of_each_call_that_did_not_go_straight(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """A call is logged at DEBUG, with every attempt and the reason for the end, unless its first attempt succeeded."""
    with servers(1) as (server,), caplog.at_level(logging.DEBUG, "meshlib"):
        async with caller(shell, server) as it:
            await it.unary()
            server.fault(code="UNAVAILABLE", times=1)
            await it.unary()
            server.fault(code="NOT_FOUND", times=1)
            await it.failure()
    address = server.address
    flush_logs()
    assert [record.getMessage() for record in caplog.records if echo.UNARY in record.getMessage()] == [
        f"{echo.UNARY}: OK after 2 attempts ({address} first: UNAVAILABLE; {address} retry: OK)",
        f"{echo.UNARY}: NOT_FOUND after 1 attempt ({address} first: NOT_FOUND; NOT_FOUND is not retried)",
    ]


async def test_the_log_tells_of_a_hedge(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """The call succeeded after a second attempt; either may be the one that the server held."""
    hedging = meshlib.HedgingPolicy(hedging_delay=0.01)
    with servers(1) as (server,), caplog.at_level(logging.DEBUG, "meshlib"):
        server.fault(delay=0.1, times=1)
        server.fault(hang=True)
        async with caller(shell, server, retry=hedging, retry_budget=None) as it:
            await it.unary()
    flush_logs()
    (said,) = [record.getMessage() for record in caplog.records if echo.UNARY in record.getMessage()]
    first, hedge = (f"{server.address} first: ", f"{server.address} hedge: ")
    assert said in {
        f"{echo.UNARY}: OK after 2 attempts ({first}OK; {hedge}CANCELLED)",
        f"{echo.UNARY}: OK after 2 attempts ({first}CANCELLED; {hedge}OK)",
    }


async def test_the_circuit_breaker_refuses_what_is_too_much(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """Calls above the limit are rejected at once, without a retry and unsent; the log says so."""
    with servers(1) as (server,):
        server.fault(hang=True)
        breaker = meshlib.CircuitBreaker(max_requests=2)
        async with caller(shell, server, circuit_breaker=breaker) as it:
            await it.ready(1)
            hanging = [asyncio.ensure_future(it.unary()) for _ in range(2)]
            await aio_until(lambda: server.in_flight == 2, "both are under way")
            error = await it.failure()
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "max_requests=2" in error.details()
            assert error.mesh.local
            assert it.channel.mesh.snapshot().requests_refused == 1
            await aio_until(lambda: "circuit breaker open: max_requests=2, rejected=1" in caplog.text, "said")
            server.heal()
            await asyncio.gather(*hanging)
            await it.unary()
        assert server.calls.total() == 3


async def test_the_server_says_when_to_come_back(shell: Shell) -> None:
    """An invalid pushback header changes nothing; a valid one delays the retry by its value."""
    retry = meshlib.RetryPolicy(**QUICK, reset_headers=(("retry-after", "seconds"),))
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE", trailing_metadata=(("retry-after", "soon"),), times=1)
        server.fault(code="UNAVAILABLE", trailing_metadata=(("retry-after", "1"),), times=1)
        async with caller(shell, server, retry=retry) as it:
            _, mesh = await it.unary()
        starts = [attempt.start for attempt in mesh.attempts]
        assert starts[1] - starts[0] < 1.0 <= starts[2] - starts[1]


async def test_a_failure_is_retried_for_its_metadata(shell: Shell) -> None:
    """Metadata causes a retry with any code."""
    retry = meshlib.RetryPolicy(**QUICK, retriable_headers=("x-draining",))
    with servers(1) as (server,):
        server.fault(code="NOT_FOUND", trailing_metadata=(("x-draining", "1"),), times=1)
        server.fault(code="NOT_FOUND", times=1)
        async with caller(shell, server, retry=retry) as it:
            error = await it.failure()
        assert [attempt.code for attempt in error.mesh.attempts] == ["NOT_FOUND", "NOT_FOUND"]


async def test_a_stream_that_falls_silent_is_ended(shell: Shell) -> None:
    """``per_attempt_idle_timeout`` ends it: with its messages, and the reason; the server's handler is cancelled."""
    retry = meshlib.RetryPolicy(**QUICK, per_attempt_idle_timeout=1.0)
    with servers(1) as (server,):
        server.fault(hang=True, after=1)
        async with caller(shell, server, retry=retry) as it:
            stream = it.channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            got, error = await read_all(it, stream)
            assert got == [b"x"]
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "per_attempt_idle_timeout=1.0 s" in error.details()
            assert stream.mesh.why == "the application had already received a message"
            await aio_until(lambda: server.in_flight == 0, "the call is cancelled on the server")
            await aio_until(lambda: all(host.in_flight == 0 for host in it.hosts), "the place is free")


async def test_a_stream_that_is_silent_from_the_start_is_tried_again(shell: Shell) -> None:
    """A stream without a first message is retried on another host."""
    retry = meshlib.RetryPolicy(**QUICK, per_attempt_idle_timeout=1.0)
    with servers(2) as both:
        async with caller(shell, *both, retry=retry, balancer="pick_first") as it:
            await it.ready(2)
            await it.unary()
            (silent,) = (server for server in both if server.calls.total())  # the one that was connected first
            silent.fault(hang=True)
            stream = it.channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            got, error = await read_all(it, stream)
            assert (got, error) == ([b"x"] * 3, None)
            assert [attempt.code for attempt in stream.mesh.attempts] == ["DEADLINE_EXCEEDED", "OK"]
            await aio_until(lambda: silent.in_flight == 0, "the call is cancelled on the silent server")


async def test_time_between_reads_is_the_applications(shell: Shell) -> None:
    """A stream is not idle while the application reads no message."""
    retry = meshlib.RetryPolicy(**QUICK, per_attempt_idle_timeout=1.0)
    with servers(1) as (server,):
        async with caller(shell, server, retry=retry) as it:
            stream = it.channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=PATIENCE)
            read = reader(it, stream)
            got = []
            for _ in range(3):
                got.append(await read())
                await asyncio.sleep(1.1)  # a slow application
            assert got == [b"x"] * 3
            with pytest.raises(StopAsyncIteration):
                await read()


async def test_the_first_call_after_the_only_host_was_away_and_is_back(shell: Shell) -> None:
    """grpc's own channel would be idle and dial at the call; here the host may be in a backoff of seconds by then."""
    with servers(1) as (server,):
        async with caller(shell, server, retry=None) as it:
            await it.unary()
            server.stop()
            await aio_until(lambda: it.hosts[0].state == "TRANSIENT_FAILURE", "it is away, and its channel backs off")
            server.start()
            response, mesh = await it.unary()
            assert response == b"x"
            assert len(mesh.attempts) == 1
