"""TLS verifies the name of the service on every instance; the channel's target decides the name."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import trustme
from tests.e2e.certificates import CA, ROOT, TRUST, tls_server
from tests.waiting import until

import meshlib
from meshlib import aio
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import DnsServer, Server, echo

NAME = "svc-a.mesh.test"
DEADLINE = 10.0


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    """A name server of this test's own."""
    with DnsServer() as server:
        yield server


def answered_by(call: grpc.Call) -> str:
    """The server's name."""
    return str(dict(call.initial_metadata())[echo.SERVER_NAME])


def call_on(channel: grpc.Channel, **arguments: Any) -> str:
    """Make one call, with or without TLS; returns the name of the server that answered."""
    _, call = channel.unary_unary(echo.UNARY).with_call(b"x", timeout=DEADLINE, **arguments)
    return answered_by(call)


def failure_of(channel: grpc.Channel, **arguments: Any) -> grpc.RpcError:
    """The error of one call."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE, **arguments)
    return caught.value


# --- the verified name ---


def test_the_name_of_the_service_is_verified(dns: DnsServer) -> None:
    """The resolver gives the address; the certificate has the name that the application wrote."""
    dns.add(NAME, "A", "127.0.0.1")
    with tls_server(NAME) as server:
        policy = meshlib.DnsPolicy(nameservers=(dns.address,))
        with meshlib.channel(f"{NAME}:{server.port}", credentials=TRUST, dns=policy) as channel:
            assert call_on(channel) == server.name
        with meshlib.channel(f"dns://{dns.address}/{NAME}:{server.port}", credentials=TRUST) as channel:
            assert call_on(channel) == server.name


async def test_the_name_of_the_service_is_verified_in_asyncio(dns: DnsServer) -> None:
    """The same in asyncio: the right name is served, a wrong one is UNAVAILABLE."""
    dns.add(NAME, "A", "127.0.0.1")
    with tls_server(NAME) as good, tls_server("svc-b.mesh.test") as bad:
        async with aio.channel(f"dns://{dns.address}/{NAME}:{good.port}", credentials=TRUST) as channel:
            assert await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE) == b"x"
        async with aio.channel(f"dns://{dns.address}/{NAME}:{bad.port}", credentials=TRUST) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "Hostname Verification Check failed" in str(caught.value.details())
        assert bad.calls.total() == 0


def test_a_wrong_name_is_unavailable_and_says_why(dns: DnsServer) -> None:
    """No call reaches the wrong server, and the error names the check and the address."""
    dns.add(NAME, "A", "127.0.0.1")
    with (
        tls_server("svc-b.mesh.test") as server,
        meshlib.channel(f"dns://{dns.address}/{NAME}:{server.port}", credentials=TRUST) as channel,
    ):
        error: Any = failure_of(channel)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "Hostname Verification Check failed" in error.details()
        assert server.address in error.details()
        assert server.calls.total() == 0


def test_an_unknown_authority_is_unavailable_and_says_why(dns: DnsServer) -> None:
    """A certificate of another CA is rejected, and the error says so."""
    dns.add(NAME, "A", "127.0.0.1")
    strangers = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
    with (
        tls_server(NAME) as server,
        meshlib.channel(f"dns://{dns.address}/{NAME}:{server.port}", credentials=strangers) as channel,
    ):
        error = failure_of(channel)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED" in str(error.details())
        assert server.calls.total() == 0


@pytest.mark.parametrize(
    "option", ["grpc.ssl_target_name_override", "grpc.default_authority"], ids=["override", "authority"]
)
def test_the_options_of_grpc_that_name_the_server_win(option: str) -> None:
    """A name set by grpc's option is the verified one."""
    with (
        tls_server(NAME) as server,
        meshlib.channel(f"static:///{server.address}", credentials=TRUST, options=[(option, NAME)]) as channel,
    ):
        assert call_on(channel) == server.name


def test_behind_srv_records_the_service_is_verified_and_the_client_too(dns: DnsServer) -> None:
    """Mutual TLS; the name is that of the service without ``_grpc._tcp``, never the SRV target, on every instance."""
    with tls_server(NAME, name="a", client_ca=ROOT) as a, tls_server(NAME, name="b", client_ca=ROOT) as b:
        for host, server in (("a", a), ("b", b)):
            dns.add(f"_grpc._tcp.{NAME}", "SRV", f"0 1 {server.port} {host}.mesh.test")
            dns.add(f"{host}.mesh.test", "A", "127.0.0.1")
        client = CA.issue_cert("client.mesh.test")
        chain = client.cert_chain_pems[0].bytes()
        mutual = grpc.ssl_channel_credentials(ROOT, client.private_key_pem.bytes(), chain)
        target = f"srv://{dns.address}/_grpc._tcp.{NAME}"
        with meshlib.channel(target, credentials=mutual) as channel:
            assert who_answers(channel, 2) == {"a", "b"}
        with meshlib.channel(target, credentials=TRUST) as channel:
            assert failure_of(channel).code() is grpc.StatusCode.UNAVAILABLE


def who_answers(channel: meshlib.Channel, hosts: int) -> set[str]:
    """The names of the servers that answer, once ``hosts`` are connected: a handshake takes its time."""
    call_on(channel)
    until(lambda: sum(host.state == "READY" for host in channel.mesh.snapshot().hosts) == hosts)
    return {call_on(channel) for _ in range(20)}


class Instances:
    """A resolver whose endpoints have names of their own."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self._endpoints = endpoints

    def resolve(self, previous: Resolution | None) -> Resolution:
        return Resolution(endpoints=self._endpoints)


def test_an_endpoint_may_have_a_name_of_its_own() -> None:
    """The certificate must have the resolver's name of the endpoint."""
    with tls_server("a.internal", name="a") as a, tls_server("b.internal", name="b") as b:
        named = Instances(
            Endpoint(address=a.address, authority="a.internal"), Endpoint(address=b.address, authority="b.internal")
        )
        with meshlib.channel("svc-a", credentials=TRUST, resolver=named) as channel:
            assert who_answers(channel, 2) == {"a", "b"}
        swapped = Instances(
            Endpoint(address=a.address, authority="b.internal"), Endpoint(address=b.address, authority="a.internal")
        )
        with meshlib.channel("svc-a", credentials=TRUST, resolver=swapped) as channel:
            assert failure_of(channel).code() is grpc.StatusCode.UNAVAILABLE


# --- drop-in ---


def test_secure_channel_is_a_drop_in() -> None:
    """It takes grpc's arguments and gives the same answer."""
    with tls_server("localhost") as server:
        target = f"localhost:{server.port}"
        with grpc.secure_channel(target, TRUST) as plain, meshlib.secure_channel(target, TRUST) as mesh:
            assert call_on(mesh) == call_on(plain) == server.name


async def test_secure_channel_is_a_drop_in_in_asyncio() -> None:
    """The same in asyncio."""
    with tls_server("localhost") as server:
        async with aio.secure_channel(f"localhost:{server.port}", TRUST) as channel:
            assert await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE) == b"x"


# --- call credentials ---

TOKEN = grpc.access_token_call_credentials("secret")


def test_call_credentials_travel_over_tls() -> None:
    """Call credentials of the channel and of one call reach the server."""
    with tls_server("localhost") as server:
        composite = grpc.composite_channel_credentials(TRUST, TOKEN)
        with meshlib.secure_channel(f"localhost:{server.port}", composite) as channel:
            call_on(channel)
        with meshlib.secure_channel(f"localhost:{server.port}", TRUST) as channel:
            call_on(channel, credentials=TOKEN)
        assert [dict(call.metadata)["authorization"] for call in server.received] == ["Bearer secret"] * 2


def test_call_credentials_are_never_sent_in_plaintext() -> None:
    """grpc rejects it, and so does the mesh: same code, same text, no second attempt; nothing reaches the server."""
    with Server() as server:
        with grpc.insecure_channel(server.address) as plain:
            expected = failure_of(plain, credentials=TOKEN)
        with meshlib.insecure_channel(server.address) as mesh:
            error: Any = failure_of(mesh, credentials=TOKEN)
        assert (error.code(), error.details()) == (expected.code(), expected.details())
        assert len(error.mesh.attempts) == 1
        assert server.received == []


async def test_call_credentials_are_never_sent_in_plaintext_in_asyncio() -> None:
    """The same in asyncio, where grpc does not end the call but raises."""

    async def refusal(channel: grpc.aio.Channel) -> tuple[type[BaseException], str]:
        with pytest.raises(Exception, match="secure") as caught:
            await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE, credentials=TOKEN)
        return caught.type, str(caught.value)

    with Server() as server:
        async with grpc.aio.insecure_channel(server.address) as plain:
            expected = await refusal(plain)
        async with aio.insecure_channel(server.address) as mesh:
            assert await refusal(mesh) == expected
        assert server.received == []
