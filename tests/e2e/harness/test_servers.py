"""The test servers are real grpc servers: they echo, fail as configured, count, die and return on their port."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from meshlib.testing import ProcessServer, Server, ServerTls, echo, servers

KINDS = {
    echo.UNARY: "unary_unary",
    echo.SERVER_STREAM: "unary_stream",
    echo.CLIENT_STREAM: "stream_unary",
    echo.BIDI_STREAM: "stream_stream",
}
DEADLINE = 10.0


@contextmanager
def channel_to(server: Server | ProcessServer) -> Iterator[grpc.Channel]:
    """A new connection, which does not wait a second before it tries again."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 50),
    ]
    with grpc.insecure_channel(server.address, options) as channel:
        yield channel


def unary(channel: grpc.Channel, payload: bytes = b"hello", *, timeout: float = DEADLINE, **metadata: str) -> bytes:
    """One unary echo; ``request_id="7"`` is sent as ``meshlib-request-id: 7``."""
    keys = tuple((f"meshlib-{key.replace('_', '-')}", value) for key, value in metadata.items())
    return channel.unary_unary(echo.UNARY)(payload, timeout=timeout, metadata=keys)


def code_of(call: object) -> str:
    """The status of a call or of its error."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call()) if callable(call) else call.result(DEADLINE)
    return caught.value.code().name


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


# --- faults ---


@pytest.mark.parametrize("method", KINDS)
def test_the_next_calls_fail_as_told(method: str) -> None:
    """Code, details and trailers arrive, without response headers; the handler did not run; later calls succeed."""
    with Server() as server, channel_to(server) as channel:
        server.fault(
            code="RESOURCE_EXHAUSTED",
            details="try later",
            trailing_metadata=(("grpc-retry-pushback-ms", "100"),),
            times=2,
        )
        requests = [b"x"]
        for _ in range(2):
            invoke = getattr(channel, KINDS[method])(method)
            argument = iter(requests) if KINDS[method].startswith("stream") else requests[0]
            call = (invoke if KINDS[method].endswith("stream") else invoke.future)(
                argument, timeout=DEADLINE, metadata=((echo.REQUEST_ID, "1"),)
            )
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert call.details() == "try later"
            assert ("grpc-retry-pushback-ms", "100") in tuple(call.trailing_metadata())
            assert tuple(call.initial_metadata()) == ()
        assert server.calls == {method: 2}
        assert server.executions == {}
        assert unary(channel, request_id="2") == b"hello"
        assert server.executions == {"2": 1}


@pytest.mark.parametrize("after", [0, 1, 2, 3, 9])
def test_a_stream_may_break_after_some_messages(after: int) -> None:
    """``after`` messages arrive, or all there are, and then the status; only at 0 the handler does not run."""
    with Server() as server, channel_to(server) as channel:
        server.fault(code="UNAVAILABLE", after=after)
        stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=DEADLINE, metadata=((echo.REQUEST_ID, "1"),))
        received: list[bytes] = []
        assert code_of(lambda: (received.append(message) for message in stream)) == "UNAVAILABLE"
        assert len(received) == min(after, 3)
        assert server.executions == ({"1": 1} if after else {})


def test_a_unary_call_may_run_and_lose_its_response() -> None:
    """With ``after=1`` the handler runs and the caller gets UNAVAILABLE: the danger of retries."""
    with Server() as server, channel_to(server) as channel:
        server.fault(code="UNAVAILABLE", after=1, times=1)
        assert code_of(lambda: unary(channel, request_id="1")) == "UNAVAILABLE"
        unary(channel, request_id="1")
        assert server.executions == {"1": 2}


def test_headers_may_precede_the_failure() -> None:
    """With ``initial_metadata`` the client has response headers before the status: a call it must not retry."""
    with Server(name="a") as server, channel_to(server) as channel:
        server.fault(code="UNAVAILABLE", initial_metadata=True, hang=False)
        call = channel.unary_unary(echo.UNARY).future(b"", timeout=DEADLINE)
        assert tuple(call.initial_metadata()) == ((echo.SERVER_NAME, "a"),)
        assert call.code() is grpc.StatusCode.UNAVAILABLE


def test_delays_hold_a_call_in_its_handler() -> None:
    """A fault or the caller's own metadata delays a call; it is in flight meanwhile, then answered."""
    with Server() as server, channel_to(server) as channel:
        server.fault(delay=0.1, times=1)
        for metadata in ({}, {"delay_ms": "100"}):
            begun = time.monotonic()
            call = channel.unary_unary(echo.UNARY).future(
                b"x",
                timeout=DEADLINE,
                metadata=tuple((f"meshlib-{key.replace('_', '-')}", v) for key, v in metadata.items()),
            )
            server.wait_until(lambda server: server.in_flight == 1)
            assert call.result(DEADLINE) == b"x"
            assert time.monotonic() - begun >= 0.1
            server.wait_until(lambda server: server.in_flight == 0)


@pytest.mark.parametrize("method", KINDS)
def test_a_hanging_call_ends_with_its_deadline_cancel_or_healing(method: str) -> None:
    """A call hangs until its deadline or cancel, and then the handler ends too; healed, it is answered after all."""
    with Server() as server, channel_to(server) as channel:
        server.fault(hang=True, times=3)
        invoke = getattr(channel, KINDS[method])(method)

        def start(timeout: float) -> grpc.Future:
            argument = iter([b"x"]) if KINDS[method].startswith("stream") else b"x"
            start = invoke if KINDS[method].endswith("stream") else invoke.future
            return start(argument, timeout=timeout, metadata=((echo.COUNT, "1"),))

        late = start(0.1)
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        cancelled = start(DEADLINE)
        server.wait_until(lambda server: server.calls[method] == 2)
        cancelled.cancel()
        server.wait_until(lambda server: server.in_flight == 0)
        healed = start(DEADLINE)
        server.wait_until(lambda server: server.in_flight == 1)
        server.heal("/some.Other/Method")
        assert server.in_flight == 1
        server.heal(method)
        assert (list(healed) if KINDS[method].endswith("stream") else [healed.result()]) == [b"x"]
        server.wait_until(lambda server: server.in_flight == 0)


def test_an_abandoned_stream_leaves_no_call_in_flight() -> None:
    """A client that stops reading and cancels frees the handler, which was between two messages."""
    with Server() as server, channel_to(server) as channel:
        stream = channel.unary_stream(echo.SERVER_STREAM)(
            b"x" * 100_000, timeout=DEADLINE, metadata=((echo.COUNT, "1000000"),)
        )
        next(stream)
        assert server.in_flight == 1
        stream.cancel()
        server.wait_until(lambda server: server.in_flight == 0)


def test_faults_are_used_in_the_order_of_the_script() -> None:
    """Counted ones first, as written, a step of none lets a call through; the latest lasting one comes last."""
    with Server() as server, channel_to(server) as channel:
        server.fault(code="INTERNAL")
        server.fault(code=grpc.StatusCode.ABORTED)
        server.fault(code="UNAVAILABLE", times=2)
        server.fault(times=1)
        server.fault(code="DATA_LOSS", times=1)
        codes = [code_of(lambda: unary(channel)) for _ in range(2)]
        assert unary(channel) == b"hello"
        codes += [code_of(lambda: unary(channel)) for _ in range(3)]
        assert codes == ["UNAVAILABLE", "UNAVAILABLE", "DATA_LOSS", "ABORTED", "ABORTED"]
        server.heal()
        assert unary(channel) == b"hello"


def test_meaningless_faults_are_refused() -> None:
    """The error lists the known values or the contradiction."""
    with Server() as server:
        with pytest.raises(ValueError, match=r"got 'UNAVALABLE'; known: OK, CANCELLED"):
            server.fault(code="UNAVALABLE")
        with pytest.raises(ValueError, match="code=OK is not a fault"):
            server.fault(code="OK")
        with pytest.raises(ValueError, match="contradict hang=True"):
            server.fault(code="INTERNAL", hang=True)
        with pytest.raises(ValueError, match="got after=-1, delay=0"):
            server.fault(after=-1)
        with pytest.raises(ValueError, match="times must be at least 1"):
            server.fault(code="INTERNAL", times=0)


# --- life ---


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("meshlib.testing.Echo/Unary", r"must be written '/package\.Service/Method'.*did you mean '/meshlib"),
        ("Unary", "must be written"),
        ("/pkg.Greeter/", "must be written"),
        ("/meshlib.testing.Echo/Unarry", "did you mean '/meshlib.testing.Echo/Unary'"),
        ("/pkg.Greeter/greet", "did you mean '/pkg.Greeter/Greet'"),
        ("/pkg.Other/Greet", "no service of this server has the method"),
        (7, "must be written"),
    ],
)  # fmt: skip
def test_a_fault_of_a_method_that_no_call_can_have_is_refused(method: Any, complaint: str) -> None:
    """A misspelt method would make the test pass for nothing; methods of generic handlers are accepted."""

    class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
        """Serves any method of one service, as proxies do."""

        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            if handler_call_details.method.startswith("/pkg.Proxied/"):
                return grpc.unary_unary_rpc_method_handler(lambda *_: b"")
            return None

    def add(server: grpc.Server) -> None:
        handlers = {"Greet": grpc.unary_unary_rpc_method_handler(lambda *_: b"")}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pkg.Greeter", handlers),))
        server.add_registered_method_handlers("pkg.Greeter", handlers)
        server.add_generic_rpc_handlers((Proxy(),))

    with Server(add=add) as server:
        with pytest.raises(ValueError, match=complaint):
            server.fault(method=method)
        for known in (echo.UNARY, "/pkg.Greeter/Greet", "/pkg.Proxied/Anything"):
            server.fault(method=known, code="UNAVAILABLE")
        server.stop()
        server.start()
        server.fault(method=echo.BIDI_STREAM, times=1)
        with channel_to(server) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/pkg.Proxied/Anything")(b"", timeout=DEADLINE)


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
    """With grace the calls inside are answered, without they end as UNAVAILABLE; after it none is inside."""
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
        end = time.monotonic() + DEADLINE
        while (left := (len(os.listdir("/proc/self/fd")), threading.active_count())) > (files, threads):
            assert time.monotonic() < end, f"(descriptors, threads) were {(files, threads)} and are {left}"
            time.sleep(0.01)


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


# --- a process of its own ---


def test_a_killed_process_tells_what_it_was_doing() -> None:
    """kill -9 inside handlers: the calls end as UNAVAILABLE, their ids are recorded, and retries are counted twice."""
    with ProcessServer(name="p") as server, channel_to(server) as channel:
        unary(channel, request_id="done")
        held = [
            channel.unary_unary(echo.UNARY).future(
                b"x", timeout=DEADLINE, metadata=((echo.REQUEST_ID, f"held-{n}"), (echo.DELAY_MS, "9000"))
            )
            for n in range(8)
        ]
        server.wait_until(lambda server: len(server.unfinished) == 8)
        lost = server.kill()
        assert lost == {f"held-{n}" for n in range(8)}
        assert {code_of(call) for call in held} == {"UNAVAILABLE"}
        assert not server.running

        address = server.address
        server.start()
        server.start()
        assert server.address == address
        metadata = ((echo.REQUEST_ID, "held-0"),)
        _, call = channel.unary_unary(echo.UNARY).with_call(
            b"x", timeout=DEADLINE, metadata=metadata, wait_for_ready=True
        )
        assert tuple(call.initial_metadata()) == ((echo.SERVER_NAME, "p"),)
        server.wait_until(lambda server: not server.unfinished)
        assert server.executions == {"done": 1, "held-0": 2} | {f"held-{n}": 1 for n in range(1, 8)}


def test_a_terminated_process_ends_its_calls_first() -> None:
    """SIGTERM with grace: the call inside is answered, new connections are refused, the exit status is 0."""
    with ProcessServer(grace=DEADLINE) as server, channel_to(server) as channel:
        call = channel.unary_unary(echo.UNARY).future(
            b"x", timeout=DEADLINE, metadata=((echo.REQUEST_ID, "1"), (echo.DELAY_MS, "200"))
        )
        server.wait_until(lambda server: server.unfinished == {"1"})
        assert server.terminate() == frozenset()
        assert call.result(DEADLINE) == b"x"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_paused_process_is_silent_and_goes_on() -> None:
    """SIGSTOP: a call gets no answer and no refusal; after SIGCONT it is answered."""
    with ProcessServer() as server, channel_to(server) as channel:
        unary(channel)
        server.pause()
        assert code_of(lambda: unary(channel, timeout=0.2)) == "DEADLINE_EXCEEDED"
        call = channel.unary_unary(echo.UNARY).future(b"x", timeout=DEADLINE)
        server.resume()
        assert call.result(DEADLINE) == b"x"
        server.pause()  # close() must still end it


def test_processes_fail_to_start_with_their_own_words() -> None:
    """The child's output is in the error, and nothing is left of it."""
    with pytest.raises(RuntimeError, match=r"(?s)ended with status 1:.*Traceback"):
        ProcessServer(tls=ServerTls(b"no key", b"no certificate"))


def test_the_program_ends_with_its_parent() -> None:
    """``--until-eof``: when the pipe on standard input ends, so does the server, which has reported itself ready."""
    command = [sys.executable, "-m", "meshlib.testing.servers", "--until-eof", "--grace=0"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready 127.0.0.1:")
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_ends_on_signals(number: signal.Signals) -> None:
    """SIGINT and SIGTERM, from a terminal or a supervisor, are an orderly end, with status 0 and no traceback."""
    command = [sys.executable, "-m", "meshlib.testing.servers"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)
        assert (process.returncode, errors) == (0, b"")


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
