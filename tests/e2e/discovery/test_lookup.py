"""Queries to a real name server over real sockets: the addresses of a name, and the answers of DNS."""

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from tests.e2e.discovery.asking import NAME, SRV, Files

from meshlib._control.lookup import Lookup
from meshlib._core.discovery.policy import DnsPolicy, Family
from meshlib._core.discovery.steps import ResolveError
from meshlib.testing import DnsServer


def asked(server: DnsServer) -> list[tuple[str, str]]:
    """Name and type of every query so far."""
    return [(query.name, query.type) for query in server.queries]


# --- addresses ---


@pytest.mark.parametrize(
    ("family", "ips", "types"),
    [
        ("auto", ("127.0.0.11", "127.0.0.12"), ["A"]),
        ("v4", ("127.0.0.11", "127.0.0.12"), ["A"]),
        ("v6", ("::1",), ["AAAA"]),
        ("all", ("127.0.0.11", "127.0.0.12", "::1"), ["A", "AAAA"]),
    ],
)
async def test_a_host_with_both_families(files: Files, family: Family, ips: tuple[str, ...], types: list[str]) -> None:
    """Only needed types are queried; a host with both is reached by one of them unless all are wanted."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", "127.0.0.12", ttl=9)
        server.add(NAME, "AAAA", "::1", ttl=7)
        found = await Lookup(DnsPolicy(family=family), files(), [server.address]).inquire().addresses(NAME)
        assert found.ips == ips
        assert found.ttl == (7 if "AAAA" in types else 9)
        assert asked(server) == [(NAME, rdtype) for rdtype in types]


async def test_a_host_with_ipv6_alone(files: Files) -> None:
    """``auto`` takes AAAA if there is no A, whatever the server's response for A."""
    with DnsServer() as server:
        server.add(NAME, "AAAA", "::1")
        lookup = Lookup(DnsPolicy(), files(), [server.address])
        assert (await lookup.inquire().addresses(NAME)).ips == ("::1",)
        with pytest.raises(ResolveError) as caught:
            await lookup.inquire().addresses("none.mesh.test")
        assert caught.value.absent
        assert asked(server) == [
            (NAME, "A"), (NAME, "AAAA"), ("none.mesh.test", "A"), ("none.mesh.test", "AAAA"),
        ]  # fmt: skip


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0:0:0:0:0:0:0:1"])
async def test_a_literal_needs_no_name_server(files: Files, text: str) -> None:
    """An address resolves to itself, in its canonical spelling, forever."""
    found = await Lookup(DnsPolicy(), files(), ["127.0.0.1:1"]).inquire().addresses(text)
    assert found.ips == ("::1" if ":" in text else "127.0.0.1",)
    assert found.ttl is None


async def test_the_hosts_file_comes_first(files: Files) -> None:
    """dnspython reads no hosts file; a changed file is read again, and a family it lacks is queried in DNS."""
    with DnsServer() as server:
        server.add("svc-a", "A", "127.0.0.99")
        server.add("svc-a", "AAAA", "::1")
        lookup = Lookup(DnsPolicy(), files(hosts="127.0.0.11 SVC-A\n"), [server.address])
        found = await lookup.inquire().addresses("svc-a")
        assert (found.ips, found.local, server.queries) == (("127.0.0.11",), True, [])
        assert found.ttl == DnsPolicy().max_ttl
        only_v6 = Lookup(DnsPolicy(family="v6"), lookup.files, [server.address])
        assert (await only_v6.inquire().addresses("svc-a")).ips == ("::1",)
        files(hosts="127.0.0.12 svc-a\n127.0.0.13 svc-a\n")
        assert (await lookup.inquire().addresses("svc-a")).ips == ("127.0.0.12", "127.0.0.13")
        files(hosts="")
        assert (await lookup.inquire().addresses("svc-a")).ips == ("127.0.0.99",)


async def test_localhost_is_never_asked_for(files: Files) -> None:
    """Neither addresses nor SRV records of localhost are queried: RFC 6761; DNS has NXDOMAIN for it."""
    lookup = Lookup(DnsPolicy(), files(), ["127.0.0.1:1"])
    assert (await lookup.inquire().addresses("localhost")).ips == ("127.0.0.1",)
    everywhere = Lookup(DnsPolicy(family="all"), files(), ["127.0.0.1:1"])
    assert (await everywhere.inquire().addresses("db.localhost.")).ips == ("127.0.0.1", "::1")
    with pytest.raises(ResolveError) as caught:
        await lookup.inquire().services("_grpc._tcp", "localhost")
    assert (caught.value.absent, caught.value.steps) == (True, ())


async def test_search_domains(files: Files) -> None:
    """A relative name is completed; the first domain that has it wins; a final dot marks a complete name."""
    with DnsServer() as server:
        server.add("svc-a.two.test", "A", "127.0.0.12")
        server.add("svc-a.three.test", "A", "127.0.0.13")
        lookup = Lookup(DnsPolicy(), files(resolv_conf="search one.test two.test three.test\n"), [server.address])
        assert (await lookup.inquire().addresses("svc-a")).ips == ("127.0.0.12",)
        assert asked(server) == [("svc-a.one.test", "A"), ("svc-a.one.test", "AAAA"), ("svc-a.two.test", "A")]
        with pytest.raises(ResolveError, match=r"DNS has no address for 'svc-a\.'"):
            await lookup.inquire().addresses("svc-a.")
        assert asked(server)[3:] == [("svc-a", "A"), ("svc-a", "AAAA")]


async def test_search_domains_of_a_service(files: Files) -> None:
    """The domains complete the service's name; the dots of its SRV prefix do not count."""
    with DnsServer() as server:
        server.add("_grpc._tcp.svc-a.two.test", "SRV", "0 1 80 a.two.test")
        lookup = Lookup(DnsPolicy(), files(resolv_conf="search one.test two.test\n"), [server.address])
        (record,) = (await lookup.inquire().services("_grpc._tcp", "svc-a")).records
        assert record.target == "a.two.test"
        assert asked(server) == [("_grpc._tcp.svc-a.one.test", "SRV"), ("_grpc._tcp.svc-a.two.test", "SRV")]


async def test_a_search_ends_where_a_server_does_not_know(files: Files) -> None:
    """Otherwise one lost answer would send the traffic of one namespace to another's service of that name."""
    with DnsServer() as server:
        server.add("svc-a.one.test", "A", "127.0.0.11")
        server.add("svc-a.two.test", "A", "127.0.0.12")
        server.fault("svc-a.one.test", rcode="SERVFAIL")
        lookup = Lookup(DnsPolicy(), files(resolv_conf="search one.test two.test\n"), [server.address])
        with pytest.raises(ResolveError) as caught:
            await lookup.inquire().addresses("svc-a")
        assert not caught.value.absent


# --- messages ---


async def test_an_answer_over_udp(files: Files) -> None:
    """20 SRV records do not fit into 512 bytes: the query offers 1232."""
    with DnsServer() as server:
        server.add(SRV, "SRV", *(f"0 1 {5000 + n} a.mesh.test" for n in range(20)))
        found = await Lookup(DnsPolicy(), files(), [server.address]).inquire().services("_grpc._tcp", NAME)
        assert len(found.records) == 20
        assert [(query.transport, query.payload) for query in server.queries] == [("udp", 1232)]


async def test_a_large_answer_over_tcp(files: Files) -> None:
    """A response larger than 1232 bytes comes over TCP, complete."""
    with DnsServer() as server:
        server.add(SRV, "SRV", *(f"0 1 {5000 + n} host-{n}.mesh.test" for n in range(200)))
        found = await Lookup(DnsPolicy(), files(), [server.address]).inquire().services("_grpc._tcp", NAME)
        assert {record.port for record in found.records} == set(range(5000, 5200))
        assert [query.transport for query in server.queries] == ["udp", "tcp"]


async def test_aliases(files: Files) -> None:
    """The address at the end of the chain, with the least TTL of the chain."""
    with DnsServer() as server:
        server.add(NAME, "CNAME", "b.mesh.test", ttl=3)
        server.add("b.mesh.test", "CNAME", "c.mesh.test", ttl=60)
        server.add("c.mesh.test", "A", "127.0.0.11", ttl=60)
        found = await Lookup(DnsPolicy(), files(), [server.address]).inquire().addresses(NAME)
        assert (found.ips, found.ttl) == (("127.0.0.11",), 3.0)


class OneByOne(asyncio.DatagramProtocol):
    """A name server that follows no alias: a.test -> b.test -> 127.0.0.11, anything else -> a longer name."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query, recursion_available=True)
        name = query.question[0].name.to_text()
        record = {"a.test.": ("CNAME", "b.test."), "b.test.": ("A", "127.0.0.11")}.get(name, ("CNAME", f"x{name}"))
        response.answer.append(dns.rrset.from_text(name, 9, "IN", *record))
        self.transport.sendto(response.to_wire(), addr)


async def test_aliases_that_the_server_leaves_to_the_client(files: Files) -> None:
    """The client follows aliases, up to a limit."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(OneByOne, local_addr=("127.0.0.1", 0))
    try:
        host, port = transport.get_extra_info("sockname")
        lookup = Lookup(DnsPolicy(family="v4"), files(), [f"{host}:{port}"])
        found = await lookup.inquire().addresses("a.test")
        assert (found.ips, found.ttl) == (("127.0.0.11",), 9.0)
        with pytest.raises(ResolveError, match="too many CNAMEs in a row") as caught:
            await lookup.inquire().addresses("loop.test")
        assert len(caught.value.steps) == 8
    finally:
        transport.close()


async def test_a_forged_answer_is_not_taken(files: Files) -> None:
    """An answer with another id is ignored; the true one that follows is used."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        server.fault(NAME, wrong_id=True)
        lookup = Lookup(DnsPolicy(family="v4", query_timeout=0.5, timeout=2.0), files(), [server.address])
        with pytest.raises(ResolveError, match=r"no answer within 0.5 s \(\d+ times\)"):
            await lookup.inquire().addresses(NAME)
        server.heal()
        assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.11",)


async def test_a_truncated_answer_is_asked_for_again_over_tcp(files: Files) -> None:
    """A truncated answer is queried again over TCP, even if it would have fitted."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        server.fault(NAME, truncate=True)
        assert (await Lookup(DnsPolicy(), files(), [server.address]).inquire().addresses(NAME)).ips == ("127.0.0.11",)
        assert [query.transport for query in server.queries] == ["udp", "tcp"]
