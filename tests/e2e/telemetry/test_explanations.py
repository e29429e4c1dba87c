"""Span, metrics, log, snapshot and call explain why a call failed or was retried."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from tests.e2e.callers import QUICK, Caller, caller
from tests.e2e.load import SHELLS, Shell
from tests.e2e.telemetry.recording import Metrics, Traces, events
from tests.waiting import aio_until

import meshlib
from meshlib.testing import flush_logs, servers

pytestmark = pytest.mark.parametrize("shell", SHELLS)


def told(traces: Traces, event: str, key: str) -> list[Any]:
    """One attribute of the events of that name on all spans."""
    return [facts[key] for span in traces.spans for name, facts in events(span) if name == event and key in facts]


def value(metrics: Metrics, name: str) -> int:
    """The single value of an instrument of one channel."""
    (point,) = metrics.points(name).values()
    return int(point.value)


async def fail(it: Caller, times: int) -> list[Any]:
    """``times`` failing calls, one after another."""
    return [await it.failure() for _ in range(times)]


async def test_an_ejection_and_panic(
    shell: Shell, traces: Traces, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Two hosts of three fail and are ejected; too few are left, so that all are used."""
    detection = meshlib.OutlierDetection(
        consecutive_gateway_failure=1, interval=0.2, base_ejection_time=0.2, max_ejection_percent=100
    )
    why = "1 gateway failures in a row, last=UNAVAILABLE"
    with servers(3) as (first, second, well), caplog.at_level(logging.INFO, "meshlib"):
        options = {"tracer_provider": traces.provider, "meter_provider": metrics.provider}
        async with caller(shell, first, second, well, retry=None, outlier_detection=detection, **options) as it:
            await it.ready(3)
            for bad in (first, second):
                bad.fault(code="UNAVAILABLE")
            ended: list[Any] = []
            while len([mesh for mesh in ended if mesh.attempts[0].ejected]) < 2:
                ended.append(await mesh_of(it))
            await aio_until(lambda: it.channel.mesh.snapshot().panic == (0,), "panic")
            assert value(metrics, "meshlib.hosts.ejected") == 2
            assert value(metrics, "meshlib.outlier_detection.ejections") == it.channel.mesh.snapshot().ejections == 2
            first.heal()
            second.heal()
            mesh = await mesh_of(it)
            assert mesh.attempts[0].panic
            await aio_until(lambda: it.channel.mesh.snapshot().panic == (), "panic is over")
    assert told(traces, "outlier", "meshlib.outlier.ejected") == [why, why]
    assert True in told(traces, "in_flight", "meshlib.panic")
    flush_logs()
    assert caplog.text.count("ejected: duration=0.2 s, reason=" + why) == 2
    assert "panic mode started: priorities=0, too few hosts are healthy, so ejected hosts are used too" in caplog.text
    assert "panic mode ended: enough hosts are healthy, so ejected hosts are excluded again" in caplog.text


async def mesh_of(it: Caller) -> Any:
    """``.mesh`` of one call, however it ended."""
    try:
        return (await it.unary())[1]
    except grpc.RpcError as error:
        return error.mesh  # type: ignore[attr-defined]


async def test_a_refusal_of_the_circuit_breaker(
    shell: Shell, traces: Traces, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Every source names the limit, and that the call was never sent."""
    why = "circuit breaker open: max_requests=1"
    with servers(1) as (server,), caplog.at_level(logging.DEBUG, "meshlib"):
        server.fault(hang=True)
        async with caller(
            shell,
            server,
            circuit_breaker=meshlib.CircuitBreaker(max_requests=1),
            tracer_provider=traces.provider,
            meter_provider=metrics.provider,
        ) as it:
            await it.ready(1)
            hanging = asyncio.ensure_future(it.unary())
            await aio_until(lambda: server.in_flight == 1, "it is under way")
            errors = await fail(it, 3)
            assert {(error.details(), error.mesh.why, error.mesh.local) for error in errors} == {(why, why, True)}
            assert value(metrics, "meshlib.circuit_breaker.refusals") == 3
            assert it.channel.mesh.snapshot().requests_refused == 3
            await aio_until(lambda: ", rejected=" in caplog.text, "the log says so")
            server.heal()
            await hanging
    assert told(traces, "breaker", "meshlib.breaker.refused") == [why] * 3
    flush_logs()
    assert caplog.text.count(", rejected=") == 1
    assert caplog.text.count(f"UNAVAILABLE after 0 attempts ({why})") == 3


async def test_a_retry_and_one_that_is_refused(
    shell: Shell, traces: Traces, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The first call is retried; then the tokens are used up, and the second is not."""
    why = "retries throttled: too many attempts failed (retryThrottling)"
    with servers(1) as (server,), caplog.at_level(logging.DEBUG, "meshlib"):
        server.fault(code="UNAVAILABLE")
        async with caller(
            shell,
            server,
            retry=meshlib.RetryPolicy(max_attempts=2, **QUICK),
            retry_budget=meshlib.RetryThrottling(max_tokens=4, token_ratio=0.1),
            tracer_provider=traces.provider,
            meter_provider=metrics.provider,
        ) as it:
            retried, refused = await fail(it, 2)
            assert (retried.mesh.why, refused.mesh.why) == ("all 2 attempts were used", why)
            assert value(metrics, "meshlib.retry.refusals") == 1
            snapshot = it.channel.mesh.snapshot()
            assert (snapshot.retries, snapshot.retries_refused) == (1, 1)
            await aio_until(lambda: f"{why}, rejected=1" in caplog.text, "the log says so")
    assert told(traces, "retry", "meshlib.retry.refused") == ["all 2 attempts were used", why]
    assert len(told(traces, "retry", "meshlib.retry.delay")) == 1
    flush_logs()
    assert f"UNAVAILABLE after 1 attempt ({server.address} first: UNAVAILABLE; {why})" in caplog.text
    assert "UNAVAILABLE after 2 attempts" in caplog.text


async def test_the_ejection_of_the_only_host_is_no_news(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """The only host still gets all calls, so there is no warning; the snapshot and the DEBUG log have the ejection."""
    detection = meshlib.OutlierDetection(consecutive_gateway_failure=1, interval=0.1, base_ejection_time=0.1)
    with servers(1) as (server,), caplog.at_level(logging.DEBUG, "meshlib"):
        async with caller(shell, server, retry=None, outlier_detection=detection) as it:
            await it.ready(1)
            server.fault(code="UNAVAILABLE")
            await it.failure()
            assert it.hosts[0].ejected_for
            await aio_until(lambda: "is an outlier but stays in use as the only host" in caplog.text, "the log says so")
            server.heal()
            await aio_until(lambda: not it.hosts[0].ejected_for, "it is back")
            await aio_until(lambda: it.channel.mesh.snapshot().panic == (), "panic is over")
    told = [record for record in caplog.records if record.levelno > logging.INFO]
    assert told == []
    assert "ejected" not in "".join(record.message for record in caplog.records if record.levelno == logging.INFO)
