"""Errors that a caller gets: the true code, the attempts, and, before any call, the configuration mistake."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tests.e2e.load import SHELLS, Shell

import meshlib
from meshlib import aio
from meshlib.testing import DnsServer, Server, echo, servers

DEADLINE = 10.0
NAME = "svc-a.mesh.test"

both_shells = pytest.mark.parametrize("shell", SHELLS)


@dataclass(frozen=True)
class Failure:
    """The failure of a call."""

    error: Any
    seconds: float

    @property
    def code(self) -> str:
        return str(self.error.code().name)

    @property
    def details(self) -> str:
        return str(self.error.details())

    @property
    def text(self) -> str:
        return str(self.error)

    @property
    def mesh(self) -> Any:
        return self.error.mesh


def failure(
    shell: Shell, target: str, timeout: float = DEADLINE, wait_for_ready: bool | None = None, **options: Any
) -> Failure:
    """The failure of one unary call on a new channel."""
    arguments = {"timeout": timeout, "wait_for_ready": wait_for_ready}

    async def in_asyncio() -> None:
        async with aio.channel(target, **options) as channel:
            await channel.unary_unary(echo.UNARY)(b"x", **arguments)

    def in_threads() -> None:
        with meshlib.channel(target, **options) as channel:
            channel.unary_unary(echo.UNARY)(b"x", **arguments)

    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        in_threads() if shell == "sync" else asyncio.run(in_asyncio())
    return Failure(caught.value, time.monotonic() - began)


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


def static(*all_servers: Server) -> str:
    """The target that lists the servers."""
    return "static:///" + ",".join(server.address for server in all_servers)


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


# --- configuration ---


class Nothing:
    """An object without any expected method."""

    def __repr__(self) -> str:
        return "Nothing()"


BAD_ARGUMENTS: list[tuple[str, Any, str, str]] = [
    ("target", 5, "target=5", 'must be a string such as "svc-a"'),
    ("target", "", "target=''", "is empty"),
    ("target", "consul:///svc-a", "'consul'", "known: dns,"),
    ("target", "a:1,b:2", "target='a:1,b:2'", "write a list of hosts as static:///a:1,b:2"),
    ("target", "static:///a", "target='static:///a'", "needs a port"),
    ("target", "svc-a:99999", "target='svc-a:99999'", "from 1 to 65535"),
    ("credentials", "secret", "credentials=", "grpc.ChannelCredentials"),
    ("options", "x", "options='x'", "must be pairs"),
    ("options", [("grpc.keepalive_time_ms", "soon")], "options['grpc.keepalive_time_ms']='soon'", "a whole number"),
    ("options", [("grpc.service_config", "{")], "options['grpc.service_config']='{'", "must be JSON"),
    ("compression", "gzip", "compression='gzip'", "grpc.Compression"),
    ("interceptors", 5, "interceptors=5", "must be a list"),
    ("interceptors", [Nothing()], "interceptors=Nothing()", "UnaryUnaryClientInterceptor"),
    ("attempt_interceptors", [Nothing()], "attempt_interceptors=Nothing()", "UnaryUnaryClientInterceptor"),
    ("resolver", Nothing(), "resolver=Nothing()", "resolve(previous)"),
    ("dns", "10.0.0.1", "dns='10.0.0.1'", "must be a DnsPolicy"),
    ("balancer", "round-robin", "balancer='round-robin'", "did you mean 'round_robin'?"),
    ("balancer", Nothing(), "balancer=Nothing()", "picker(hosts, *, rng)"),
    ("retry", 3, "retry=3", "must be a RetryPolicy, a HedgingPolicy, or None"),
    ("retry_budget", 0.2, "retry_budget=0.2", "must be a RetryBudget, a RetryThrottling, or None"),
    ("timeout", "1", "timeout='1'", "a number of seconds, more than 0"),
    ("timeout", 0, "timeout=0", "a number of seconds, more than 0"),
    ("methods", {"Get": meshlib.MethodPolicy()}, "methods='Get'", '"/package.Service/Method"'),
    ("methods", {"/p.S/M": 3}, "methods['/p.S/M']=3", "must be a MethodPolicy"),
    ("service_config", "{", "service_config='{'", "must be JSON"),
    ("service_config", {"retryPolicy": {}}, "service_config.retryPolicy", "belongs in methodConfig[]"),
    ("outlier_detection", 5, "outlier_detection=5", "must be an OutlierDetection, or None"),
    ("circuit_breaker", 5, "circuit_breaker=5", "must be a CircuitBreaker, or None"),
    ("telemetry", None, "telemetry=None", "must be a TelemetryPolicy"),
    ("tracer_provider", Nothing(), "tracer_provider=Nothing()", "must be an OpenTelemetry TracerProvider"),
    ("meter_provider", Nothing(), "meter_provider=Nothing()", "must be an OpenTelemetry MeterProvider"),
]


@pytest.mark.parametrize(
    ("argument", "value", "told", "allowed"),
    BAD_ARGUMENTS,
    ids=[f"{name}={value}" for name, value, *_ in BAD_ARGUMENTS],
)
@pytest.mark.parametrize("make", [meshlib.channel, aio.channel], ids=SHELLS)
def test_a_bad_argument_is_refused_at_construction(
    make: Callable[..., Any], argument: str, value: Any, told: str, allowed: str
) -> None:
    """The message has the argument, its value and the allowed values."""
    with pytest.raises(meshlib.ConfigError) as caught:
        make(**{"target": "svc-a", argument: value})
    assert told in str(caught.value)
    assert allowed in str(caught.value)


def test_what_was_given_for_credentials_is_not_repeated() -> None:
    """The value may be a password, and the message goes to a log."""
    with pytest.raises(meshlib.ConfigError) as caught:
        meshlib.channel("svc-a", credentials="secret")  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_every_argument_is_tried() -> None:
    """The table above has every argument of the factories, and both factories have the same ones."""
    arguments = set(meshlib.channel.__annotations__) - {"return"}
    assert arguments == {name for name, *_ in BAD_ARGUMENTS}
    assert arguments == set(aio.channel.__annotations__) - {"return"}


BAD_FIELDS: list[tuple[type, dict[str, Any], str, str]] = [
    (meshlib.RetryPolicy, {"max_attempts": 1}, "max_attempts=1", "from 2 to 100"),
    (meshlib.RetryPolicy, {"initial_backoff": 0}, "initial_backoff=0", "more than 0"),
    (meshlib.RetryPolicy, {"max_backoff": "1"}, "max_backoff='1'", "more than 0"),
    (meshlib.RetryPolicy, {"backoff_multiplier": 0.5}, "backoff_multiplier=0.5", "from 1 to 1000"),
    (
        meshlib.RetryPolicy,
        {"retryable_status_codes": {"UNAVAILIBLE"}},
        "retryable_status_codes='UNAVAILIBLE'",
        "did you mean 'UNAVAILABLE'?",
    ),
    (meshlib.RetryPolicy, {"retryable_status_codes": {"OK"}}, "retryable_status_codes='OK'", "cannot be retried"),
    (meshlib.RetryPolicy, {"per_attempt_timeout": 0}, "per_attempt_timeout=0", "more than 0"),
    (meshlib.RetryPolicy, {"unsent_only": "yes"}, "unsent_only='yes'", "True or False"),
    (meshlib.RetryPolicy, {"buffer_size": -1}, "buffer_size=-1", "from 0"),
    (meshlib.RetryPolicy, {"stop": 3}, "stop=3", "tenacity"),
    (meshlib.HedgingPolicy, {"max_attempts": 101}, "max_attempts=101", "from 2 to 100"),
    (meshlib.HedgingPolicy, {"hedging_delay": -1}, "hedging_delay=-1", "0 or more"),
    (meshlib.HedgingPolicy, {"non_fatal_status_codes": "UNAVAILABLE"}, "non_fatal_status_codes=", "must be a set"),
    (meshlib.RetryBudget, {"budget_percent": 101}, "budget_percent=101", "from 0 to 100"),
    (meshlib.RetryBudget, {"min_retry_concurrency": -1}, "min_retry_concurrency=-1", "from 0"),
    (meshlib.RetryThrottling, {"max_tokens": 0, "token_ratio": 0.1}, "max_tokens=0", "from 1 to 1000"),
    (meshlib.OutlierDetection, {"interval": 0}, "interval=0", "more than 0"),
    (meshlib.OutlierDetection, {"max_ejection_percent": 101}, "max_ejection_percent=101", "from 0 to 100"),
    (meshlib.CircuitBreaker, {"max_requests": -1}, "max_requests=-1", "from 0"),
    (meshlib.MethodPolicy, {"retry": 3}, "retry=3", "must be a RetryPolicy"),
    (meshlib.MethodPolicy, {"timeout": 0}, "timeout=0", "more than 0"),
    (meshlib.MethodPolicy, {"wait_for_ready": "yes"}, "wait_for_ready='yes'", "True or False"),
    (meshlib.DnsPolicy, {"family": "v5"}, "family='v5'", "known: all, auto, v4, v6"),
    (meshlib.DnsPolicy, {"nameservers": "10.0.0.1"}, "nameservers='10.0.0.1'", "must be a list"),
    (meshlib.DnsPolicy, {"timeout": 0}, "timeout=0", "above 0"),
    (meshlib.DnsPolicy, {"min_ttl": 60.0}, "max_ttl=30.0", "not be below min_ttl=60.0"),
    (meshlib.DnsPolicy, {"allow_empty": 1}, "allow_empty=1", "True or False"),
]


@pytest.mark.parametrize(("policy", "fields", "told", "allowed"), BAD_FIELDS)
def test_a_bad_field_is_refused_at_construction(policy: type, fields: dict[str, Any], told: str, allowed: str) -> None:
    """Policies are checked when they are made, with the same message."""
    with pytest.raises(meshlib.ConfigError) as caught:
        policy(**fields)
    assert told in str(caught.value)
    assert allowed in str(caught.value)


def test_an_error_of_configuration_is_a_value_error() -> None:
    """``except ValueError`` around the set-up of a program catches it."""
    assert issubclass(meshlib.ConfigError, ValueError)
