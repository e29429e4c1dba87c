"""The test servers are real grpc servers: they echo, count, die and return on their port."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.e2e.harness.serving import DEADLINE, channel_to, code_of, unary
from tests.waiting import until

from meshlib.testing import ProcessServer, Server, ServerTls, echo, servers

# --- the echo service ---


def test_the_four_kinds_of_call_echo_bytes() -> None:
    """Bytes come back unchanged, and the first message carries the server's name."""
    with Server(name="a") as server, channel_to(server) as channel:
        response, call = channel.unary_unary(echo.UNARY).with_call(b"\x00\xff", timeout=DEADLINE)
        assert (response, tuple(call.initial_metadata())) == (b"\x00\xff", ((echo.SERVER_NAME, "a"),))
        stream = channel.unary_stream(echo.SERVER_STREAM)(b"s", timeout=DEADLINE)
        assert list(stream) == [b"s"] * 3
        assert tuple(stream.initial_metadata()) == ((echo.SERVER_NAME, "a"),)
        five = channel.unary_stream(echo.SERVER_STREAM)(b"s", timeout=DEADLINE, metadata=((echo.COUNT, "5"),))
        assert list(five) == [b"s"] * 5
        assert channel.stream_unary(echo.CLIENT_STREAM)(iter([b"a", b"b"]), timeout=DEADLINE) == b"ab"
        assert list(channel.stream_stream(echo.BIDI_STREAM)(iter([b"a", b"b"]), timeout=DEADLINE)) == [b"a", b"b"]
        assert server.calls == {echo.UNARY: 1, echo.SERVER_STREAM: 2, echo.CLIENT_STREAM: 1, echo.BIDI_STREAM: 1}
        server.wait_until(lambda server: server.in_flight == 0)


async def test_asyncio_calls_are_served_as_well() -> None:
    """The server has threads of its own, so the loop that owns it may call it."""
    with Server() as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            assert await channel.unary_unary(echo.UNARY)(b"hello", timeout=DEADLINE) == b"hello"
            stream = channel.stream_stream(echo.BIDI_STREAM)(timeout=DEADLINE)
            for payload in (b"1", b"2"):
                await stream.write(payload)
                assert await stream.read() == payload
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF


def test_users_own_servicers_are_counted_and_broken_too() -> None:
    """A generated service beside the echo service: the same faults, the same counts."""
    servicer = health.HealthServicer()
    with (
        Server(name="a", add=lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server)) as server,
        channel_to(server) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        response, call = stub.Check.with_call(request, timeout=DEADLINE)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        assert tuple(call.initial_metadata()) == ((echo.SERVER_NAME, "a"),)
        server.fault(code="UNAVAILABLE", method="/grpc.health.v1.Health/Check")
        assert code_of(lambda: stub.Check(request, timeout=DEADLINE)) == "UNAVAILABLE"
        assert unary(channel) == b"hello"
        assert server.calls == {"/grpc.health.v1.Health/Check": 2, echo.UNARY: 1}
        assert code_of(lambda: channel.unary_unary("/no.Such/Method")(b"", timeout=DEADLINE)) == "UNIMPLEMENTED"


def test_calls_are_recorded_with_their_metadata() -> None:
    """Method, metadata and the client's socket, which is one for calls over one connection."""
    with Server() as server, channel_to(server) as channel:
        unary(channel, request_id="1")
        unary(channel)
        first, second = server.received
        assert first.method == second.method == echo.UNARY
        assert (echo.REQUEST_ID, "1") in first.metadata
        assert first.peer == second.peer
        assert first.at <= second.at <= time.monotonic()


# --- life ---


def test_a_server_keeps_its_port_while_it_is_down() -> None:
    """Stopped it refuses connections, the port stays reserved, and started again it serves there; counts continue."""
    with Server() as server, channel_to(server) as channel:
        unary(channel)
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1)
        assert code_of(lambda: unary(channel)) == "UNAVAILABLE"
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind(("127.0.0.1", server.port))
        server.start()
        server.start()
        channel.unary_unary(echo.UNARY)(b"hello", timeout=DEADLINE, wait_for_ready=True)
        assert server.calls == {echo.UNARY: 2}


@pytest.mark.parametrize("grace", [0.0, DEADLINE])
def test_stopping_lets_calls_end_or_cuts_them_off(grace: float) -> None:
    """Within the grace, calls in flight are answered; without one they end as UNAVAILABLE. Then none is in flight."""
    with Server() as server, channel_to(server) as channel:
        call = channel.unary_unary(echo.UNARY).future(b"x", timeout=DEADLINE, metadata=((echo.DELAY_MS, "200"),))
        server.wait_until(lambda server: server.in_flight == 1)
        server.stop(grace)
        assert server.in_flight == 0
        assert (call.result(DEADLINE) if grace else code_of(call)) == (b"x" if grace else "UNAVAILABLE")


def test_a_hanging_call_does_not_keep_a_server_from_closing() -> None:
    """Close ends hanging calls, in handlers that wait for a fault and in those that wait for the client."""
    with Server() as server, channel_to(server) as channel:
        server.fault(hang=True, method=echo.UNARY)
        hanging = channel.unary_unary(echo.UNARY).future(b"x", timeout=DEADLINE)
        released = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b"x"
            released.wait(DEADLINE)

        waiting = channel.stream_unary(echo.CLIENT_STREAM).future(requests(), timeout=DEADLINE)
        server.wait_until(lambda server: server.in_flight == 2)
        server.close()
        assert code_of(hanging) == code_of(waiting) == "UNAVAILABLE"
        released.set()


def test_a_port_can_be_named_and_is_not_shared_by_accident() -> None:
    """A second server on a port that is served is an error; after close the port is free again."""
    with Server() as server, pytest.raises(OSError, match=f"cannot serve on {server.address}"):
        Server(server.address)
    with Server(server.address) as successor, channel_to(successor) as channel:
        assert unary(channel) == b"hello"


@pytest.mark.parametrize("address", ["50051", "127.0.0.1:http", "127.0.0.1", ":0"])
def test_a_malformed_address_is_refused(address: str) -> None:
    """The error shows the address and the three forms."""
    with pytest.raises(ValueError, match=rf"'unix:path', port 0 for any: got '{address}'"):
        Server(address)


def test_addresses_of_every_family_serve(tmp_path: Path) -> None:
    """Servers may have any of 127.0.0.0/8, IPv6 and unix sockets."""
    for address in ("127.0.0.17:0", "[::1]:0", f"unix:{tmp_path / 'socket'}"):
        with Server(address) as server, channel_to(server) as channel:
            assert unary(channel) == b"hello"
            assert server.address.startswith(address.removesuffix("0"))


def test_several_servers_at_once() -> None:
    """Several servers are named and numbered; on ports of their own, or on one port of addresses of their own."""
    with servers(3) as group:
        assert [server.name for server in group] == ["server-1", "server-2", "server-3"]
        assert len({server.address for server in group}) == 3
    with servers(3, name="node", one_port=True) as group:
        (port,) = {server.port for server in group}
        assert [server.address for server in group] == [f"127.0.0.{n}:{port}" for n in (11, 12, 13)]
        for server in group:
            with channel_to(server) as channel:
                _, call = channel.unary_unary(echo.UNARY).with_call(b"", timeout=DEADLINE)
                assert tuple(call.initial_metadata()) == ((echo.SERVER_NAME, server.name),)
    assert not any(server.serving for server in group)


def test_waiting_in_vain_says_what_the_server_was_doing() -> None:
    """The error of ``wait_until`` shows the server's state."""
    with Server("127.0.0.1:0", name="a") as server:
        state = rf"condition not met within 0.01 s: <Server a {server.address} serving, 0 calls, 0 in flight>"
        with pytest.raises(TimeoutError, match=state):
            server.wait_until(lambda server: server.in_flight == 1, timeout=0.01)


def test_closing_leaves_nothing_behind() -> None:
    """Threads and descriptors are as before after many servers, with calls inside and without."""
    with Server() as server, channel_to(server) as channel:
        unary(channel)  # opens the descriptors that grpc keeps per process
        files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for turn in range(20):
            with Server() as other, channel_to(other) as to_other:
                if turn % 2:
                    other.fault(hang=True)
                    call = to_other.unary_unary(echo.UNARY).future(b"", timeout=DEADLINE)
                    other.wait_until(lambda other: other.in_flight == 1)
                else:
                    call = None
                    unary(to_other)
            assert call is None or code_of(call) in {"UNAVAILABLE", "CANCELLED"}
            other.close()
        until(
            lambda: (len(os.listdir("/proc/self/fd")), threading.active_count()) <= (files, threads),
            f"no more than {files} descriptors and {threads} threads",
        )


# --- TLS ---


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this module's own."""
    return trustme.CA()


@pytest.mark.parametrize("kind", [Server, ProcessServer])
def test_tls_and_client_certificates(kind: type[Server | ProcessServer], authority: trustme.CA) -> None:
    """The certificate is verified by its name, and a client without one of its own is rejected."""
    certificate, client = authority.issue_cert("svc-a.mesh.test"), authority.issue_cert("client.mesh.test")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    tls = ServerTls(certificate.private_key_pem.bytes(), chain, client_ca=authority.cert_pem.bytes())
    assert certificate.private_key_pem.bytes().decode() not in repr(tls)
    with kind(tls=tls) as server:
        root = authority.cert_pem.bytes()
        mine = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes())
        options = [("grpc.default_authority", "svc-a.mesh.test")]
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(root, *mine), options) as channel:
            assert unary(channel) == b"hello"
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(root), options) as channel:
            assert code_of(lambda: unary(channel)) == "UNAVAILABLE"


# --- the pytest plugin ---


def test_the_plugin_serves_a_users_tests(tmp_path: Path) -> None:
    """A test file without imports gets a name server and the servers it requests; the plugin closes them."""
    (tmp_path / "test_theirs.py").write_text(
        """
started = []

def test_fixtures(mesh_dns, mesh_servers):
    a, b = mesh_servers(2)
    (c,) = mesh_servers(1, name="other")
    mesh_dns.add("svc-a.mesh.test", "A", "127.0.0.1")
    assert [server.name for server in (a, b, c)] == ["server-1", "server-2", "other-1"]
    started.extend((a, b, c))

def test_they_are_closed():
    assert [server.serving for server in started] == [False] * 3
"""
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "meshlib.testing.plugin",
        "-p",
        "no:cacheprovider",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_the_plugin_imports_next_to_nothing() -> None:
    """Every run of pytest pays for it where meshlib is installed: it adds neither grpc nor dnspython to ``meshlib``."""
    program = """
import sys, pytest, meshlib
before = set(sys.modules)
import meshlib.testing.plugin
print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - {'meshlib'}))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"grpc", "dns", "asyncio", "subprocess"} & set(ran.stdout.split())


def test_unknown_names_list_the_known_ones() -> None:
    """``meshlib.testing`` is imported lazily; the error for a misspelt name lists the known ones."""
    import meshlib.testing

    with pytest.raises(AttributeError, match=r"no attribute 'Sever'; it has Server, servers, ProcessServer"):
        meshlib.testing.Sever  # noqa: B018
    assert {"Server", "DnsServer", "echo"} <= set(dir(meshlib.testing))
