"""The test servers fail as configured: with any code, late, in the middle of a stream, or never."""

import time
from typing import Any

import grpc
import pytest
from tests.e2e.harness.serving import DEADLINE, channel_to, code_of, unary

from meshlib.testing import Server, echo

KINDS = {
    echo.UNARY: "unary_unary",
    echo.SERVER_STREAM: "unary_stream",
    echo.CLIENT_STREAM: "stream_unary",
    echo.BIDI_STREAM: "stream_stream",
}


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
        arrived = server.calls[method]  # not on a busy machine, perhaps: its deadline is short
        cancelled = start(DEADLINE)
        server.wait_until(lambda server: server.calls[method] == arrived + 1)
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
