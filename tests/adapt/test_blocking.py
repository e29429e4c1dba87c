"""The short blocking call has the same results as grpc's own, on its oldest and newest release: each call is made both
ways."""

import functools
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc._observability
import pytest
import trustme
from grpc._cython import cygrpc
from tests.adapt.blocking_calls import PATIENCE, Call, account, ask, facts
from tests.e2e.few_streams import FewStreamsServer

from meshlib._adapt import grpcio
from meshlib._adapt.options import DEFAULTS
from meshlib.testing import Server, ServerTls, echo

FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def result(call: Call, multicallable: Any) -> list[object]:
    """The result of ``call`` on a multicallable: a response, or an error with its properties."""
    try:
        answer = call(multicallable)
        if type(answer) is tuple:
            return ["answer", answer[0], *facts(answer[1])]
        return ["answer", answer]
    except grpc.RpcError as error:
        return ["failure", *account(error)]
    except Exception as error:  # noqa: BLE001 - compared
        return ["raised", type(error), str(error)]


def both(address: str, call: Call, *, deserializer: Any = None, credentials: Any = None) -> list[object]:
    """The result of a call, equal for both: first without the call object, then with it."""
    options = [*DEFAULTS, ("grpc.default_authority", "localhost")]
    channel = grpcio.channel(f"ipv4:{address}", options, credentials, None)
    try:
        theirs: Any = channel.unary_unary(echo.UNARY, None, deserializer, True)
        ours = grpcio.shortened(theirs)
        assert type(ours) is grpcio.BlockingUnaryUnary
        expected = result(call, theirs)
        assert result(call, ours) == expected
        asked = result(call, theirs.with_call)
        assert result(call, ours.with_call) == asked
        assert asked[: len(expected)] == expected
    finally:
        channel.close()
    return expected


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose requests determine its responses."""
    with Server() as made:
        yield made


def test_an_answer(server: Server) -> None:
    """The message, through the deserializer."""
    assert both(server.address, ask) == ["answer", b"x"]
    assert both(server.address, ask, deserializer=bytes.decode) == ["answer", "x"]


@pytest.mark.parametrize("code", FAILURES)
def test_a_status(server: Server, code: grpc.StatusCode) -> None:
    """The error has grpc's type, code, details, metadata and texts."""
    server.fault(
        code=code, details="näh", trailing_metadata=(("why", "asked"), ("b-bin", b"\0")), initial_metadata=True, after=1
    )
    told = both(server.address, ask)
    assert told[:4] == ["failure", grpc._channel._InactiveRpcError, code, "näh"]
    assert dict(told[4])[echo.SERVER_NAME]  # type: ignore[call-overload]


@pytest.mark.parametrize("status", [0, 5, 99])
@pytest.mark.parametrize("silent", [False, True])
def test_an_answer_that_no_server_of_grpc_gives(status: int, silent: bool) -> None:
    """A status unknown to grpc, a message with a failure, a success without a message."""
    with FewStreamsServer(status=status, silent=silent) as odd:
        told = [both(odd.address, ask, deserializer=read) for read in (None, bytes.decode, lambda _: 1 / 0)]
    readable, unreadable = [kind for kind, *_ in told[:2]], told[2]
    assert readable == (["failure"] * 2 if status else ["answer"] * 2)
    assert unreadable[0] == ("answer" if silent and not status else "failure")
    if not silent:
        assert unreadable[2] is grpc.StatusCode.INTERNAL, "a message that cannot be read overrides the status"


def test_an_answer_that_cannot_be_read(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """INTERNAL, with grpc's details and grpc's log line."""
    kind, _, code, *_ = both(server.address, ask, deserializer=lambda _: 1 / 0)
    assert (kind, code) == ("failure", grpc.StatusCode.INTERNAL)
    assert len(caplog.records) == 4
    assert len({(record.name, record.getMessage()) for record in caplog.records}) == 1
    assert both(server.address, ask, deserializer=lambda _: None)[2] is grpc.StatusCode.INTERNAL


def test_a_deadline(server: Server) -> None:
    """A deadline that passes while the server holds the call, or before the call."""
    server.fault(hang=True)
    for timeout in (0.05, 0.0, -1.0):
        told = both(server.address, lambda call, timeout=timeout: call(b"x", timeout, None, None, None, None))
        assert told[2] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_server_is_told_the_deadline() -> None:
    """The server gets the remaining seconds, which grpc rounds to a hundredth."""

    def left(_: bytes, context: grpc.ServicerContext) -> bytes:
        remaining = context.time_remaining()
        if remaining is None or remaining > 1e6:
            return b"no deadline"
        return b"as asked" if 900 < remaining < 1100 else f"{remaining}".encode()

    service, _, method = echo.UNARY[1:].partition("/")
    handler: Any = grpc.unary_unary_rpc_method_handler(left)
    with futures.ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        assert both(address, lambda call: call(b"x", 1000.0, None, None, None, None)) == ["answer", b"as asked"]
        assert both(address, lambda call: call(b"x", None, None, None, None, None)) == ["answer", b"no deadline"]
        server.stop(None).wait(PATIENCE)


def test_a_server_that_is_not_there() -> None:
    """UNAVAILABLE, with C-core's details."""
    with Server() as gone:
        address = gone.address
    assert both(address, ask)[2] is grpc.StatusCode.UNAVAILABLE
    told = both(address, lambda call: call(b"x", 0.2, None, None, True, None))
    assert told[2] is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "arguments",
    [
        (b"x", PATIENCE, (("key", "value"), ("a-bin", b"\0\xff")), None, None, None),
        (b"x", None, None, None, None, None),
        (b"", PATIENCE, (), None, None, None),
        (None, PATIENCE, None, None, None, None),
        ("text", PATIENCE, None, None, None, None),
        (bytearray(b"x"), PATIENCE, None, None, None, None),
        (b"x", PATIENCE, (("Key", "value"),), None, None, None),
        (b"x", PATIENCE, [("key", "value")], None, None, None),
        (b"x", "soon", None, None, None, None),
        (b"x", float("inf"), None, None, None, None),
        (b"x", PATIENCE, None, "secret", None, None),
        (b"x", PATIENCE, None, None, True, None),
        (b"x", PATIENCE, None, None, False, grpc.Compression.Gzip),
    ],
    ids=repr,
)
def test_what_is_asked(server: Server, arguments: tuple[Any, ...]) -> None:
    """The server gets the same arguments, or the same exception is raised."""
    both(server.address, lambda call: call(*arguments))
    seen = [sorted(call.metadata) for call in server.received]
    assert len(seen) in (0, 4)
    assert seen[:1] * 3 == seen[1:]


def test_the_credentials_of_a_call() -> None:
    """The credentials provide a token for each call, over TLS."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    token = grpc.access_token_call_credentials("token")

    def connected(call: Any) -> Any:
        ask(call)  # before a connection exists, grpc asks for the token on a separate thread
        return call(b"x", PATIENCE, None, token, None, None)

    with Server(tls=ServerTls(certificate.private_key_pem.bytes(), chain)) as server:
        trust = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        assert both(server.address, connected, credentials=trust) == ["answer", b"x"]
        sent = [dict(call.metadata).get("authorization") for call in server.received]
    assert sent == [None, "Bearer token"] * 4


def test_a_closed_channel(server: Server) -> None:
    """ValueError, with the same text."""
    channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
    theirs = channel.unary_unary(echo.UNARY, None, None, True)  # type: ignore[call-arg]
    channel.close()
    assert result(ask, grpcio.shortened(theirs)) == result(ask, theirs)
    assert result(ask, theirs)[1] is ValueError


class Plugin(grpc._observability.ObservabilityPlugin[Any, Any]):  # type: ignore[misc]
    """A plug-in like that of ``grpcio-observability``, without its access to C-core."""

    observability_enabled = False  # type: ignore[assignment]

    def __init__(self) -> None:
        self.set_stats(True)
        self.told: list[tuple[str, object]] = []

    def record_rpc_latency(self, method: str, target: str, rpc_latency: float, status_code: Any) -> None:
        """Called at the end of each call."""
        self.told.append((method, status_code))

    def create_client_call_tracer(self, method_name: bytes, target: bytes) -> Any: ...
    def create_server_call_tracer_factory(self, *, xds: bool = False) -> Any: ...
    def save_trace_context(self, trace_id: str, span_id: str, is_sampled: bool) -> None: ...


def test_a_plug_in_of_grpcs_own_hears_of_each_call(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With such a plug-in, calls go through grpc."""
    plugin = Plugin()
    channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
    ours = grpcio.shortened(channel.unary_unary(echo.UNARY, None, None, False))  # type: ignore[call-arg]
    assert ask(ours) == b"x"
    assert not plugin.told
    monkeypatch.setattr(grpc._observability, "_OBSERVABILITY_PLUGIN", plugin)
    assert ask(ours) == b"x"
    channel.close()
    assert plugin.told == [(echo.UNARY, grpc.StatusCode.OK)]


def test_what_the_short_way_leaves_out_is_not_there() -> None:
    """Released wheels of grpc take no deadline from the context of a server's handler."""
    assert cygrpc.get_deadline_from_context() is None


def test_only_grpcs_own_multicallable_is_shortened(server: Server) -> None:
    """A multicallable with interceptors, or of another library, is unchanged."""

    class Passing(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details, request)

    channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
    intercepted = grpc.intercept_channel(channel, Passing()).unary_unary(echo.UNARY)
    assert grpcio.shortened(intercepted) is intercepted
    assert ask(intercepted) == b"x"
    channel.close()


def test_a_deserializer_is_asked_once(server: Server) -> None:
    """A second try might succeed after grpc has reported the failure."""
    asked: list[bytes] = []

    def fails_once(data: bytes) -> bytes:
        asked.append(data)
        if len(asked) == 1:
            raise ValueError("not yet")
        return data

    channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
    ours = grpcio.shortened(channel.unary_unary(echo.UNARY, None, fails_once, True))  # type: ignore[call-arg]
    told = result(ask, ours)
    channel.close()
    assert told[2] is grpc.StatusCode.INTERNAL
    assert asked == [b"x"]


class Wrapper:
    """Like wrapt's: it resembles the function that it wraps."""

    def __init__(self, wrapped: Any) -> None:
        self.__wrapped__ = wrapped
        self.__code__ = wrapped.__code__

    def __get__(self, instance: Any, _: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)


@pytest.mark.parametrize("step", ["__call__", "with_call", "_blocking", "_prepare"])
@pytest.mark.parametrize("as_function", [True, False])
def test_an_agent_that_wraps_grpcs_own_call_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, as_function: bool, step: str
) -> None:
    """The wrapper may matter, so calls go through grpc."""
    own: Any = grpc._channel._UnaryUnaryMultiCallable
    wrapped = getattr(own, step)

    @functools.wraps(wrapped)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        return wrapper.__wrapped__(*arguments, **options)

    channel = grpcio.channel("ipv4:127.0.0.1:1", DEFAULTS, None, None)
    made: Any = channel.unary_unary(echo.UNARY)
    assert grpcio.shortened(made) is not made
    monkeypatch.setattr(own, step, wrapper if as_function else Wrapper(wrapped))
    assert grpcio.shortened(made) is made
    channel.close()


def test_an_agent_that_replaces_grpcs_class_hears_of_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's own class extends grpc's."""
    own: Any = grpc._channel._UnaryUnaryMultiCallable
    heard: list[object] = []

    class Watched(own):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            heard.append(arguments)
            return super().__call__(*arguments, **options)

    monkeypatch.setattr(grpc._channel, "_UnaryUnaryMultiCallable", Watched)
    channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
    assert ask(grpcio.shortened(channel.unary_unary(echo.UNARY))) == b"x"
    channel.close()
    assert len(heard) == 1


@pytest.mark.parametrize("name", ["_handle_event", "_end_unary_response_blocking"])
def test_an_agent_that_replaces_a_function_under_grpcs_call_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Such functions are called for each call made by grpc itself."""
    replaced = getattr(grpc._channel, name)
    channel = grpcio.channel("ipv4:127.0.0.1:1", DEFAULTS, None, None)
    made: Any = channel.unary_unary(echo.UNARY)
    monkeypatch.setattr(grpc._channel, name, functools.partial(replaced))
    assert grpcio.shortened(made) is made
    channel.close()
