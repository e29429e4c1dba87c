"""Errors that a caller gets: the true code, the attempts, and the reason why no host was there."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tests.e2e.errors.failures import DEADLINE, failure, static
from tests.e2e.load import SHELLS, Shell

import meshlib
from meshlib import aio
from meshlib.testing import DnsServer, Server, echo, servers

NAME = "svc-a.mesh.test"

both_shells = pytest.mark.parametrize("shell", SHELLS)


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    """A name server of this test's own."""
    with DnsServer() as server:
        yield server


def asking(dns: DnsServer) -> meshlib.DnsPolicy:
    """Query that server, with a timeout just long enough to notice silence."""
    return meshlib.DnsPolicy(nameservers=(dns.address,), query_timeout=0.2, timeout=0.3)


# --- names that do not resolve ---


def _silent(dns: DnsServer) -> None:
    dns.fault(drop=True)


def _dead(dns: DnsServer) -> None:
    dns.stop()


def _broken(dns: DnsServer) -> None:
    dns.fault(rcode="SERVFAIL")


def _unaware(dns: DnsServer) -> None:
    """Have no name at all."""


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        (NAME, [f"SRV _grpc._tcp.{NAME}. from {{}}: NXDOMAIN", f"A {NAME}. from {{}}: NXDOMAIN"]),
        (f"{NAME}:50051", [f"A {NAME}. from {{}}: NXDOMAIN"]),
        (f"dns:///{NAME}:50051", [f"A {NAME}. from {{}}: NXDOMAIN"]),
        (f"srv:///_grpc._tcp.{NAME}", [f"SRV _grpc._tcp.{NAME}. from {{}}: NXDOMAIN"]),
        (f"static:///{NAME}:50051", [f"A {NAME}. from {{}}: NXDOMAIN"]),
    ],
)
@both_shells
def test_a_name_that_nobody_knows(shell: Shell, target: str, steps: list[str], dns: DnsServer) -> None:
    """UNAVAILABLE at once, decided locally; the details have the target, and each query with its answer."""
    failed = failure(shell, target, dns=asking(dns))
    assert failed.code == "UNAVAILABLE"
    assert (failed.mesh.local, failed.mesh.attempts) == (True, ())
    assert repr(target) in failed.details
    for step in steps:
        assert step.format(dns.address) in failed.details


@pytest.mark.parametrize(
    ("fault", "reason"), [(_broken, "SERVFAIL"), (_silent, "no answer within 0.2 s"), (_dead, "Connection refused")]
)
@both_shells
def test_a_name_server_that_does_not_know(
    shell: Shell, fault: Callable[[DnsServer], None], reason: str, dns: DnsServer
) -> None:
    """The reason is the server's failure, not a missing name."""
    fault(dns)
    failed = failure(shell, f"{NAME}:50051", dns=asking(dns))
    assert (failed.code, failed.mesh.local) == ("UNAVAILABLE", True)
    assert reason in failed.details
    assert dns.address in failed.details
    assert "NXDOMAIN" not in failed.details


@pytest.mark.parametrize("fault", [_unaware, _broken, _silent, _dead])
@both_shells
def test_wait_for_ready_waits_to_the_deadline(shell: Shell, fault: Callable[[DnsServer], None], dns: DnsServer) -> None:
    """The call fails at its deadline with DEADLINE_EXCEEDED, and with the reason why there was no host."""
    fault(dns)
    failed = failure(shell, f"{NAME}:50051", timeout=2.0, wait_for_ready=True, dns=asking(dns))
    assert (failed.code, failed.mesh.local, failed.mesh.attempts) == ("DEADLINE_EXCEEDED", True, ())
    assert failed.seconds >= 2.0
    assert "has no endpoints" in failed.details
    assert dns.address in failed.details


@both_shells
def test_wait_for_ready_is_served_when_the_name_appears(shell: Shell, dns: DnsServer) -> None:
    """A call that waits for a missing service is the first to be served."""

    async def in_asyncio() -> bytes:
        async with aio.channel(target, dns=asking(dns)) as channel:
            answer: bytes = await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE, wait_for_ready=True)
            return answer

    def in_threads() -> bytes:
        with meshlib.channel(target, dns=asking(dns)) as channel:
            answer: bytes = channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE, wait_for_ready=True)
            return answer

    with Server() as server, ThreadPoolExecutor(1) as caller:
        target = f"{NAME}:{server.port}"
        answer = caller.submit(in_threads if shell == "sync" else lambda: asyncio.run(in_asyncio()))
        dns.wait_for_queries(1)
        dns.add(NAME, "A", "127.0.0.1")
        assert answer.result(DEADLINE) == b"x"


# --- hosts that fail ---


@both_shells
def test_all_hosts_are_dead(shell: Shell) -> None:
    """Three attempts on both, none of which left this process; the text counts them and has the last refusal."""
    with servers(2) as both:
        for server in both:
            server.stop()
        failed = failure(shell, static(*both))
        addresses = {server.address for server in both}
    assert failed.code == "UNAVAILABLE"
    assert failed.text.startswith("UNAVAILABLE after 3 attempts on 2 endpoints (")
    last = failed.mesh.attempts[-1]
    assert f"last: {last.host} " in failed.text
    assert "Connection refused" in failed.details
    assert [attempt.why for attempt in failed.mesh.attempts] == ["first", "retry", "retry"]
    assert {attempt.host for attempt in failed.mesh.attempts[:2]} == addresses
    assert {(attempt.code, attempt.sent) for attempt in failed.mesh.attempts} == {("UNAVAILABLE", False)}


@both_shells
def test_wait_for_ready_with_all_hosts_dead(shell: Shell) -> None:
    """It waits for a connection to the deadline, and the text has the state of each host."""
    with servers(2) as both:
        for server in both:
            server.stop()
        failed = failure(shell, static(*both), timeout=0.4, wait_for_ready=True)
        assert failed.code == "DEADLINE_EXCEEDED"
        assert failed.seconds >= 0.4
        for server in both:
            assert f"{server.address} TRANSIENT_FAILURE" in failed.text


@both_shells
def test_the_last_server_has_the_word(shell: Shell) -> None:
    """After several attempts code, message and metadata are the last server's; the text lists all attempts."""
    trailer = (("x-reason", "full"),)
    with Server() as server:
        server.fault(code="UNAVAILABLE", details="too busy", trailing_metadata=trailer)
        failed = failure(shell, static(server))
        assert server.calls[echo.UNARY] == 3
    assert failed.code == "UNAVAILABLE"
    assert failed.details == "too busy"
    assert failed.text == (
        f"UNAVAILABLE after 3 attempts on 1 endpoint ({failed.mesh.why}); last: {server.address} too busy"
    )
    assert ("x-reason", "full") in [(key, value) for key, value in failed.error.trailing_metadata()]
    assert [(attempt.code, attempt.sent) for attempt in failed.mesh.attempts] == [("UNAVAILABLE", True)] * 3
    starts = [attempt.start for attempt in failed.mesh.attempts]
    assert starts == sorted(starts)
    assert all(0 <= attempt.seconds < DEADLINE for attempt in failed.mesh.attempts)
    assert not failed.mesh.local


@pytest.mark.parametrize("code", ["NOT_FOUND", "INTERNAL", "DATA_LOSS", "UNAVAILABLE"])
@both_shells
def test_a_single_attempt_fails_with_grpcs_own_error(shell: Shell, code: str) -> None:
    """The error is unchanged but for ``.mesh``: existing handlers still catch it."""
    own = grpc.aio.AioRpcError if shell == "aio" else grpc._channel._InactiveRpcError
    with Server() as server:
        server.fault(code=code, details="as the server said")
        failed = failure(shell, static(server), retry=None)
        assert server.calls[echo.UNARY] == 1
    assert type(failed.error) is own
    assert (failed.code, failed.details) == (code, "as the server said")
    assert [(attempt.host, attempt.code) for attempt in failed.mesh.attempts] == [(server.address, code)]
    assert not failed.mesh.local


@both_shells
def test_errors_are_what_callers_catch(shell: Shell) -> None:
    """The error for several attempts is a grpc error as well, with all that interceptors do with one."""
    with Server() as server:
        server.stop()
        error = failure(shell, static(server)).error
    if shell == "aio":
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.debug_error_string()
        return
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.Future)
    assert error.done()
    assert not error.cancelled()
    assert error.exception() is error
    with pytest.raises(grpc.RpcError) as caught:
        error.result()
    assert caught.value is error
