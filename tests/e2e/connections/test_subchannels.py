"""The connections to the hosts: warm, reconnected, drained, addressed and configured by the application."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.e2e.instances import Scripted, connections, endpoint, static
from tests.e2e.load import SHELLS, Load, Shell
from tests.waiting import until

import meshlib
from meshlib import aio
from meshlib.testing import DnsServer, ProcessServer, Server, echo, servers

DEADLINE = 10.0
NAME = "svc-a.mesh.test"
AUTHORITY = "/meshlib.testing.Authority/Get"

both_shells = pytest.mark.parametrize("shell", SHELLS)


def states(channel: Any) -> dict[str, str]:
    """The connectivity of each host."""
    return {host.address: host.state for host in channel.mesh.snapshot().hosts}


# --- connecting ---


def test_a_restarted_server_is_reconnected_without_a_call() -> None:
    """The channel notices without a call that a server is gone, and that it is back."""
    with ProcessServer() as server, meshlib.channel(static(server)) as channel:
        channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
        server.kill()
        until(lambda: states(channel)[server.address] != "READY")
        server.start()
        until(lambda: states(channel)[server.address] == "READY")
        assert channel.mesh.snapshot().hosts[0].failures == 0


async def test_a_restarted_server_is_reconnected_without_a_call_in_asyncio() -> None:
    """The same in asyncio."""
    with ProcessServer() as server:
        async with aio.channel(static(server)) as channel:
            await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            server.kill()
            await asyncio.to_thread(until, lambda: states(channel)[server.address] != "READY", 1.0)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(until, lambda: states(channel)[server.address] == "READY", 2.0)
            assert channel.mesh.snapshot().hosts[0].failures == 0


@both_shells
def test_a_host_that_does_not_connect_gets_no_call(shell: Shell) -> None:
    """A host with an open port but no HTTP/2 server gets no call, and no call waits for it."""
    with Server() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Load(f"{static(server)},{address}", shell=shell, callers=2) as load:
            load.wait_for_calls(50)
            assert states(load.channel) == {server.address: "READY", address: "CONNECTING"}
        assert load.failed == []
        assert {attempt.host for result in load.results for attempt in result.attempts} == {server.address}


# --- changes ---


def test_a_removed_host_closes_when_its_last_call_has_ended() -> None:
    """The host's stream continues to the end; then, and not before, the connection is closed."""
    with servers(2) as (a, b):
        resolver = Scripted(endpoint(a))
        with meshlib.channel("svc-a", resolver=resolver) as channel:
            requests = _Requests()
            stream = channel.stream_stream(echo.BIDI_STREAM)(iter(requests), timeout=DEADLINE)
            requests.send(b"1")
            assert next(stream) == b"1"
            resolver.endpoints = (endpoint(b),)
            channel.mesh.resolve_now()
            until(lambda: states(channel) == {b.address: "READY"})
            for _ in range(10):
                channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            requests.send(b"2")
            assert next(stream) == b"2"
            assert connections(a) == 1
            requests.close()
            assert list(stream) == []
            until(lambda: connections(a) == 0)
            assert (a.calls[echo.UNARY], b.calls[echo.UNARY]) == (0, 10)


class _Requests:
    """A request stream controlled by the test."""

    def __init__(self) -> None:
        self._queue: list[bytes | None] = []
        self._changed = threading.Condition()

    def send(self, request: bytes | None) -> None:
        with self._changed:
            self._queue.append(request)
            self._changed.notify()

    def close(self) -> None:
        self.send(None)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._queue, DEADLINE):
                    return
                request = self._queue.pop(0)
            if request is None:
                return
            yield request


def test_a_host_that_comes_back_while_it_drains_keeps_its_connection() -> None:
    """When it is removed and returns before its last call ends, no connection is closed."""
    with servers(2) as (a, b):
        resolver = Scripted(endpoint(a), endpoint(b))
        with meshlib.channel("svc-a", resolver=resolver) as channel:
            until_ready(channel, 2)
            a.fault(hang=True, times=1)
            b.fault(hang=True, times=1)
            held = [threading.Thread(target=_call, args=(channel,)) for _ in range(2)]
            for thread in held:
                thread.start()
            for server in (a, b):
                server.wait_until(lambda server: server.in_flight == 1)
            for named in ((endpoint(b),), (endpoint(a), endpoint(b))):
                resolver.endpoints = named
                channel.mesh.resolve_now()
                until(lambda named=named: len(states(channel)) == len(named))
            a.heal()
            b.heal()
            for thread in held:
                thread.join(DEADLINE)
            for _ in range(4):
                _call(channel)
            assert [len({call.peer for call in server.received}) for server in (a, b)] == [1, 1]


def _call(channel: Any) -> None:
    channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)


def until_ready(channel: Any, n: int) -> None:
    """Use the channel, and wait for its connections."""
    _call(channel)
    until(lambda: list(states(channel).values()) == ["READY"] * n)


def test_a_change_of_weight_keeps_the_connection() -> None:
    """The shares change, the sockets do not."""
    with servers(2) as (a, b):
        resolver = Scripted(endpoint(a), endpoint(b))
        with meshlib.channel("svc-a", resolver=resolver) as channel:
            until_ready(channel, 2)
            resolver.endpoints = (endpoint(a, weight=3), endpoint(b))
            channel.mesh.resolve_now()
            until(lambda: [host.weight for host in channel.mesh.snapshot().hosts] == [3, 1])
            _call(channel)
            before = a.calls.total()
            for _ in range(40):
                _call(channel)
            assert a.calls.total() - before == pytest.approx(30, abs=1)
            assert [len({call.peer for call in server.received}) for server in (a, b)] == [1, 1]


# --- options ---

LARGE = b"x" * (5 << 20)
UNLIMITED = ("grpc.max_receive_message_length", -1)


def test_message_sizes_are_limited_as_in_grpc_and_by_option() -> None:
    """5 MiB are more than grpc's default of 4; without a limit they arrive. The status is not retried."""
    with Server(options=[UNLIMITED]) as server:
        with meshlib.channel(static(server)) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(echo.UNARY)(LARGE, timeout=DEADLINE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in caught.value.details()
        assert server.calls.total() == 1
        with meshlib.channel(static(server), options=[UNLIMITED]) as channel:
            assert channel.unary_unary(echo.UNARY)(LARGE, timeout=DEADLINE) == LARGE


async def test_message_sizes_are_limited_in_asyncio() -> None:
    """The same in asyncio."""
    with Server(options=[UNLIMITED]) as server:
        async with aio.channel(static(server)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(echo.UNARY)(LARGE, timeout=DEADLINE)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with aio.channel(static(server), options=[UNLIMITED]) as channel:
            assert await channel.unary_unary(echo.UNARY)(LARGE, timeout=DEADLINE) == LARGE


@both_shells
def test_keepalive_finds_a_silent_server(shell: Shell) -> None:
    """A stopped process keeps its connections, but is silent: with keepalive its calls move to the other."""
    keepalive = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.http2.ping_timeout_ms", 1000),  # while a ping for another purpose is unanswered, no other is sent
    ]
    with ProcessServer(name="a") as a, ProcessServer(name="b") as b:
        with Load(static(a, b), shell=shell, callers=4, delay=20, options=keepalive) as load:
            load.wait_until(lambda: load.ready() == 2)
            load.wait_for_calls(10)
            a.pause()
            paused = time.monotonic()
            load.wait_until(lambda: any(len(result.attempts) == 2 for result in load.since(paused)))
            load.wait_for_calls(20)
        assert load.failed == []
        moved = [result for result in load.results if len(result.attempts) > 1]
        assert {result.attempts[0].host for result in moved} == {a.address}
        assert {result.server for result in moved} == {"b"}
        a.resume()


@both_shells
def test_a_proxy_of_the_environment_is_not_for_the_mesh(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A notice says once that the proxy is bypassed; an application that asks for it gets it, even a dead one."""
    monkeypatch.setattr("meshlib._control.notices._told", set())  # once in a process, that is
    for variable in ("http_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with Server() as server:
        with caplog.at_level(logging.WARNING, "meshlib"), Load(static(server), shell=shell, callers=1) as load:
            load.wait_for_calls(3)
        assert load.failed == []
        assert len([record for record in caplog.records if "grpc_proxy: proxy ignored" in record.getMessage()]) == 1
        proxied: dict[str, Any] = {"options": [("grpc.enable_http_proxy", 1)], "retry": None}
        with Load(static(server), shell=shell, callers=1, **proxied) as load:
            load.wait_for_calls(1)
        assert {result.code for result in load.results} == {"UNAVAILABLE"}


@both_shells
def test_a_proxy_that_the_application_names_is_asked(shell: Shell) -> None:
    """The channel asks it for a tunnel to the host's address; this proxy has none."""
    with Server() as server, socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        asked: list[bytes] = []

        def serve() -> None:
            with listener.accept()[0] as connection:
                asked.append(connection.recv(4096))

        serving = threading.Thread(target=serve)
        serving.start()
        options: dict[str, Any] = {"options": [("grpc.http_proxy", proxy)], "retry": None}
        with Load(static(server), shell=shell, callers=1, **options) as load:
            load.wait_for_calls(1)
            serving.join(DEADLINE)
        assert {result.code for result in load.results} == {"UNAVAILABLE"}
        assert asked[0].startswith(f"CONNECT {server.address} HTTP/1.".encode())


# --- authority ---


def _add_authority(server: grpc.Server) -> None:
    """A method that returns the ``:authority`` of its call, which grpc.ServicerContext does not offer."""
    service, _, method = AUTHORITY[1:].partition("/")
    handler = grpc.unary_unary_rpc_method_handler(lambda _, context: context._rpc_event.call_details.host)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))


def authority(shell: Shell, target: str, **options: Any) -> str:
    """The ``:authority`` that a server sees."""
    if shell == "sync":
        with meshlib.channel(target, **options) as channel:
            return str(channel.unary_unary(AUTHORITY)(b"", timeout=DEADLINE), "ascii")

    async def ask() -> bytes:
        async with aio.channel(target, **options) as channel:
            answer: bytes = await channel.unary_unary(AUTHORITY)(b"", timeout=DEADLINE)
            return answer

    return str(asyncio.run(ask()), "ascii")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (f"{NAME}", f"{NAME}"),
        (f"{NAME}:{{port}}", f"{NAME}:{{port}}"),
        (f"dns:///{NAME}:{{port}}", f"{NAME}:{{port}}"),
        (f"dns://{{dns}}/{NAME}:{{port}}", f"{NAME}:{{port}}"),
        (f"srv:///_grpc._tcp.{NAME}", f"{NAME}"),
        (f"srv://{{dns}}/_grpc._tcp.{NAME}", f"{NAME}"),
        (f"static:///{NAME}:{{port}}", f"{NAME}:{{port}}"),
        ("static:///127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("ipv4:127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("localhost:{port}", "localhost:{port}"),
    ],
)
@both_shells
def test_the_authority_is_what_the_application_named(shell: Shell, target: str, expected: str) -> None:
    """The authority is the service's name for names, never the SRV target or its address; else the address."""
    with Server(add=_add_authority) as server, DnsServer() as dns:
        dns.add(f"_grpc._tcp.{NAME}", "SRV", f"0 1 {server.port} instance.mesh.test")
        dns.add("instance.mesh.test", "A", "127.0.0.1")
        dns.add(NAME, "A", "127.0.0.1")
        facts = {"port": server.port, "dns": dns.address}
        policy = meshlib.DnsPolicy(nameservers=(dns.address,))
        assert authority(shell, target.format(**facts), dns=policy) == expected.format(**facts)
        named = [("grpc.default_authority", "chosen.test")]
        assert authority(shell, target.format(**facts), dns=policy, options=named) == "chosen.test"


@both_shells
def test_the_authority_of_an_override_is_the_name_it_stands_for(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment sets the address, the application the name."""
    with Server(add=_add_authority) as server:
        monkeypatch.setenv("MESHLIB_SVC_A_ENDPOINTS", server.address)
        assert authority(shell, "svc-a") == "svc-a"
        assert authority(shell, "svc-a:50051") == "svc-a:50051"


@both_shells
def test_the_authority_of_a_unix_socket_is_localhost(shell: Shell, tmp_path: Path) -> None:
    """The authority is localhost, as in grpc."""
    with Server(f"unix:{tmp_path}/socket", add=_add_authority) as server:
        assert authority(shell, server.address) == "localhost"


@both_shells
def test_the_authority_a_resolver_names_wins(shell: Shell) -> None:
    """An endpoint may have its own name; otherwise it has the target's."""
    with Server(add=_add_authority) as server:
        assert authority(shell, "svc-a", resolver=Scripted(endpoint(server, authority="own.test"))) == "own.test"
        assert authority(shell, "svc-a", resolver=Scripted(endpoint(server))) == "svc-a"
