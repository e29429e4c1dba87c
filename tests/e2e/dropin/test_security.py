"""secure_channel of either runtime: certificates and credentials work as in grpc."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from tests.e2e.dropin.scenarios import LONG
from tests.e2e.dropin.service import METHODS, scripted_server
from tests.e2e.dropin.subjects import Subject

from meshlib.testing import Server
from meshlib.testing.server import ServerTls

UNARY = METHODS["unary_unary"]
SERVICE_PATH = UNARY.rpartition("/")[0]

Connect = Callable[..., Any]
"""`connect(server, credentials, options=())(**arguments of the call)`: the response."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The CA of all certificates here."""
    return trustme.CA()


def credentials_of(authority: trustme.CA, **more: Any) -> grpc.ChannelCredentials:
    """Trust in `authority` alone."""
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes(), **more)


def tls(authority: trustme.CA, *names: str, clients: trustme.CA | None = None) -> ServerTls:
    """A server's certificate for `names`."""
    certificate = authority.issue_cert(*names)
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    return ServerTls(certificate.private_key_pem.bytes(), chain, clients and clients.cert_pem.bytes())


@pytest.fixture
def serve() -> Iterator[Callable[[ServerTls], Server]]:
    """Start a TLS server that ends with the test."""
    with ExitStack() as stack:
        yield lambda tls: stack.enter_context(scripted_server(tls=tls))


@pytest.fixture(params=["sync", "asyncio"])
def connect(subject: Subject, request: pytest.FixtureRequest) -> Connect:
    """Make one call over a new secure channel, in either runtime."""

    def sync(
        server: Server, credentials: grpc.ChannelCredentials, options: Sequence[Any] = (), /, **arguments: Any
    ) -> bytes:
        with subject.secure_channel(server.address, credentials, options) as channel:
            return channel.unary_unary(UNARY)(b"one", timeout=LONG, **arguments)

    async def aio(
        server: Server, credentials: grpc.ChannelCredentials, options: Sequence[Any] = (), /, **arguments: Any
    ) -> bytes:
        async with subject.aio_secure_channel(server.address, credentials, options) as channel:
            return await channel.unary_unary(UNARY)(b"one", timeout=LONG, **arguments)

    return sync if request.param == "sync" else lambda *args, **kwargs: asyncio.run(aio(*args, **kwargs))


def test_trusted(connect: Connect, serve: Callable[[ServerTls], Server], authority: trustme.CA) -> None:
    """A call succeeds if the certificate is for the server's address, by a trusted authority."""
    assert connect(serve(tls(authority, "127.0.0.1")), credentials_of(authority)) == b"one"


def test_untrusted(connect: Connect, serve: Callable[[ServerTls], Server], authority: trustme.CA) -> None:
    """A certificate by another authority gives no connection."""
    with pytest.raises(grpc.RpcError) as raised:
        connect(serve(tls(trustme.CA(), "127.0.0.1")), credentials_of(authority))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["grpc.ssl_target_name_override", "grpc.default_authority"])
def test_other_name(connect: Connect, serve: Callable[[ServerTls], Server], authority: trustme.CA, option: str) -> None:
    """A certificate for another name is accepted only if an option sets this name."""
    server = serve(tls(authority, "svc-a.test"))
    assert connect(server, credentials_of(authority), [(option, "svc-a.test")]) == b"one"
    with pytest.raises(grpc.RpcError) as raised:
        connect(server, credentials_of(authority))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def test_client_certificate(connect: Connect, serve: Callable[[ServerTls], Server], authority: trustme.CA) -> None:
    """A server that requests the client's certificate gets it."""
    server = serve(tls(authority, "127.0.0.1", clients=authority))
    own = authority.issue_cert("client.test")
    shown = credentials_of(
        authority,
        private_key=own.private_key_pem.bytes(),
        certificate_chain=b"".join(part.bytes() for part in own.cert_chain_pems),
    )
    assert connect(server, shown) == b"one"
    with pytest.raises(grpc.RpcError) as raised:
        connect(server, credentials_of(authority))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


class Plugin(grpc.AuthMetadataPlugin):
    """Adds a key; records its requests."""

    def __init__(self, key: str, error: Exception | None = None) -> None:
        self.key, self.error = key, error
        self.asked: list[tuple[str, str]] = []

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        self.asked.append((context.service_url, context.method_name))
        callback(((self.key, "secret"),), self.error)


@pytest.mark.shares_process_state  # a thread of C-core that runs a plugin remains in threading's records as a dummy
def test_call_credentials(connect: Connect, serve: Callable[[ServerTls], Server], authority: trustme.CA) -> None:
    """Credentials of the channel and of the call are both requested, for this service and method, and both are sent."""
    server = serve(tls(authority, "127.0.0.1"))
    of_channel, of_call = Plugin("x-channel"), Plugin("x-call")
    composite = grpc.composite_channel_credentials(
        credentials_of(authority), grpc.metadata_call_credentials(of_channel)
    )
    assert connect(server, composite, credentials=grpc.metadata_call_credentials(of_call)) == b"one"
    assert dict(server.received[0].metadata).items() >= {"x-channel": "secret", "x-call": "secret"}.items()
    url = f"https://{server.address}{SERVICE_PATH}"
    assert of_channel.asked == of_call.asked == [(url, UNARY.rpartition("/")[2])]


@pytest.mark.shares_process_state  # a thread of C-core that runs a plugin remains in threading's records as a dummy
def test_call_credentials_that_fail(
    connect: Connect, serve: Callable[[ServerTls], Server], authority: trustme.CA
) -> None:
    """A plugin without an answer ends the call before it is sent."""
    server = serve(tls(authority, "127.0.0.1"))
    failing = grpc.metadata_call_credentials(Plugin("x-call", LookupError("no token")))
    with pytest.raises(grpc.RpcError) as raised:
        connect(server, credentials_of(authority), credentials=failing)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    assert "no token" in raised.value.details()  # type: ignore[attr-defined]
    assert server.calls.total() == 0
