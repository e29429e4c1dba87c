"""Blocking calls with failures around them: the caller gets the error, and nothing is left behind."""

import json
import subprocess
import sys
import threading
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import meshlib
from meshlib._control.arguments import ChannelArguments
from meshlib._control.settings import settle
from meshlib._core.endpoint import Endpoint
from meshlib._core.host import HostEntry
from meshlib._sync.subchannels import Method, Subchannel
from meshlib.testing import DnsServer, Server, echo, flush_logs


class Raises(grpc.UnaryUnaryClientInterceptor):
    """An attempt interceptor that raises the test's exception."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Raise."""
        raise self.error


@pytest.mark.parametrize("error", [grpc.RpcError("mine"), RuntimeError("mine"), KeyboardInterrupt()])
def test_what_an_attempt_interceptor_raises_reaches_the_caller(error: BaseException) -> None:
    """The exception arrives unchanged, and the in-flight count drops."""
    with (
        Server() as server,
        meshlib.channel(f"static:///{server.address}", attempt_interceptors=[Raises(error)]) as channel,
    ):
        with pytest.raises(type(error)) as caught:
            channel.unary_unary(echo.UNARY)(b"x", timeout=5)
        assert caught.value is error
        assert [host.in_flight for host in channel.mesh.snapshot().hosts] == [0]


@pytest.mark.parametrize("with_call", [False, True])
def test_bad_metadata_leaves_no_connection_behind(with_call: bool) -> None:
    """grpc never frees a call whose metadata it cannot convert: its host would be dialled forever."""
    with Server() as server, meshlib.channel(f"static:///{server.address}") as channel:
        unary = channel.unary_unary(echo.UNARY)
        call = unary.with_call if with_call else unary
        assert unary(b"x", timeout=5) == b"x"
        for metadata, error in (
            ((("key", 1),), TypeError),
            ((("key-bin", "text"),), TypeError),
            ((("key",),), ValueError),
        ):
            with pytest.raises(error):
                call(b"x", timeout=5, metadata=metadata)  # type: ignore[arg-type]
        with pytest.raises(grpc.RpcError) as caught:
            call(b"x", timeout=5, metadata=(("Key", "value"),))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert unary(b"x", timeout=5, metadata=(("key", "value"), ("key-bin", b"\0"))) == b"x"


def test_metadata_that_grpc_refuses_is_refused_with_no_host_in_sight_too() -> None:
    """Metadata is rejected at once, with grpc's text, though the call would wait for a host; so is a future's."""
    with meshlib.channel("static:///127.0.0.1:1") as channel:
        unary = channel.unary_unary(echo.UNARY)
        with pytest.raises(grpc.RpcError) as caught:
            unary(b"x", metadata=(("Key", "value"),), wait_for_ready=True)
        future: Any = unary.future(b"x", metadata=(("Key", "value"),), wait_for_ready=True)
        expected = future.exception(5)
    assert caught.value.code() is expected.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == expected.details() == "Invalid metadata"


def test_bad_metadata_takes_no_place_of_the_retry_budget() -> None:
    """Bad metadata holds no retry of the budget, even if a policy would retry the reported code."""
    retry = meshlib.RetryPolicy(retryable_status_codes=frozenset({"CANCELLED", "UNAVAILABLE"}))
    with Server() as server, meshlib.channel(f"static:///{server.address}", retry=retry) as channel:
        unary = channel.unary_unary(echo.UNARY)
        for _ in range(5):
            with pytest.raises(TypeError):
                unary(b"x", timeout=5, metadata=(("key", 1),))
        assert channel.mesh.snapshot().retries_held == 0
        assert unary(b"x", timeout=5) == b"x"


def test_ctrl_c_ends_the_call_that_it_interrupts() -> None:
    """The caller gets the exception, the server's handler ends, and the in-flight count drops. In a separate process:
    grpc never frees such a call, and its host is dialled forever."""
    child = [sys.executable, "-m", "tests.e2e.calls.interrupted_child"]
    run = subprocess.run(child, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"in flight at the hosts": [0], "calls": 1}


def test_an_endless_timeout_is_as_in_grpc() -> None:
    """``float("inf")`` raises no Python error during the wait for the first host."""
    with meshlib.channel("static:///127.0.0.1:1") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(echo.UNARY)(b"x", timeout=float("inf"))


class Broken(SpanProcessor):
    """A broken span processor of the application."""

    def on_end(self, span: ReadableSpan) -> None:
        """Raise."""
        raise RuntimeError("a broken processor")


def test_telemetry_that_fails_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged once, and calls continue."""
    tracers = TracerProvider()
    tracers.add_span_processor(Broken())
    with Server() as server, meshlib.channel(f"static:///{server.address}", tracer_provider=tracers) as channel:
        unary = channel.unary_unary(echo.UNARY)
        assert unary(b"x", timeout=5) == b"x"
        assert unary.future(b"x", timeout=5).result(timeout=5) == b"x"
    flush_logs()
    assert sum("telemetry failed" in record.getMessage() for record in caplog.records) == 1


def test_a_channel_to_the_same_name_as_a_closed_one_looks_it_up_again() -> None:
    """The control thread's lookups end with it, and start anew with the next."""
    with Server(name="old") as old, Server(name="new") as new, DnsServer() as dns:
        service = "_grpc._tcp.svc-a.test"
        dns.add("host.test", "A", "127.0.0.1")
        dns.add(service, "SRV", f"0 1 {old.address.rpartition(':')[2]} host.test.", ttl=0)
        first = meshlib.channel(f"srv://{dns.address}/{service}")
        assert first.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
        first.close()
        with meshlib.channel(f"srv://{dns.address}/{service}") as second:
            unary = second.unary_unary(echo.UNARY)
            assert unary(b"x", timeout=5) == b"x"
            dns.set(service, "SRV", f"0 1 {new.address.rpartition(':')[2]} host.test.", ttl=0)
            answered = threading.Event()
            for _ in range(10_000):
                _, call = unary.with_call(b"x", timeout=5)
                if dict(call.initial_metadata())[echo.SERVER_NAME] == "new":
                    answered.set()
                    break
            assert answered.is_set()
        assert first.mesh.snapshot().state == "SHUTDOWN"


def test_a_closed_subchannel_makes_no_multicallable() -> None:
    """C-core would register the method on a closed channel, and crash."""
    config = settle(ChannelArguments("static:///127.0.0.1:1")).config
    subchannel = Subchannel(HostEntry(Endpoint(address="127.0.0.1:1")), config.cluster)
    subchannel.close()
    with pytest.raises(ValueError, match="closed channel"):
        subchannel.multicallables[Method("unary_unary", echo.UNARY, None, None, True)]


def test_a_closed_channel_is_not_ready() -> None:
    """A later subscriber gets the true state."""
    with Server() as server:
        channel = meshlib.channel(f"static:///{server.address}")
        assert channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
        channel.close()
        told: list[grpc.ChannelConnectivity] = []
        heard = threading.Event()

        def hear(state: grpc.ChannelConnectivity) -> None:
            told.append(state)
            heard.set()

        channel.subscribe(hear)
        assert heard.wait(5)
        assert told == [grpc.ChannelConnectivity.SHUTDOWN]
