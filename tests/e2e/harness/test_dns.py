"""The in-process name server answers like a real one, and fails like one on request."""

import asyncio
import os
import socket
import threading
import time
from contextlib import suppress
from random import Random

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.resolver
import pytest

from meshlib.testing import DnsServer

NAME = "svc-a.mesh.test"
ADDRESSES = ("127.0.0.11", "127.0.0.12")


def ask(
    server: DnsServer,
    name: str = NAME,
    rdtype: str = "A",
    *,
    tcp: bool = False,
    payload: int | None = None,
    timeout: float = 5.0,
) -> dns.message.Message:
    """Send one query, over UDP with the client's EDNS payload, or over TCP; raises dnspython's exceptions."""
    query = dns.message.make_query(name, rdtype, use_edns=payload is not None, payload=payload or 0)
    exchange = dns.query.tcp if tcp else dns.query.udp
    return exchange(query, server.host, port=server.port, timeout=timeout)


def texts(response: dns.message.Message) -> list[str]:
    """The answer section, record by record."""
    return [f"{rrset.name} {rrset.ttl} {rdata}" for rrset in response.answer for rdata in rrset]


def resolver_at(server: DnsServer) -> dns.resolver.Resolver:
    """dnspython's stub resolver, as applications have it."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [server.host]
    resolver.port = server.port
    return resolver


@pytest.mark.parametrize("tcp", [False, True])
def test_records_are_answered_in_order_with_their_ttl(tcp: bool) -> None:
    """Added records are returned, authoritative, over UDP and TCP."""
    with DnsServer() as server:
        server.add(NAME, "A", *ADDRESSES, ttl=7)
        response = ask(server, tcp=tcp)
        assert texts(response) == [f"{NAME}. 7 {address}" for address in ADDRESSES]
        assert response.rcode() == dns.rcode.NOERROR
        assert response.flags & dns.flags.AA


def test_missing_names_differ_from_missing_types() -> None:
    """No name: NXDOMAIN. A name without the type, or only with names below it: NODATA. Both carry the SOA."""
    with DnsServer(negative_ttl=3) as server:
        server.add("_grpc._tcp.svc-a.mesh.test", "SRV", "0 1 50051 a.mesh.test")
        missing, other_type, only_above = (
            ask(server, "svc-b.mesh.test"),
            ask(server, "_grpc._tcp.svc-a.mesh.test"),
            ask(server, "svc-a.mesh.test"),
        )
    assert missing.rcode() == dns.rcode.NXDOMAIN
    assert other_type.rcode() == only_above.rcode() == dns.rcode.NOERROR
    for response in (missing, other_type, only_above):
        assert not response.answer
        assert [(rrset.ttl, rrset[0].minimum) for rrset in response.authority] == [(3, 3)]


def test_cnames_are_followed() -> None:
    """The answer is the whole chain; a chain with a missing end has the code of its end (RFC 6604)."""
    with DnsServer() as server:
        server.add(NAME, "CNAME", "alias.mesh.test")
        server.add("alias.mesh.test", "CNAME", "real.mesh.test")
        nowhere = ask(server)
        server.add("real.mesh.test", "A", "127.0.0.11")
        somewhere = ask(server)
        assert ask(server, rdtype="CNAME").answer[0].to_text() == f"{NAME}. 1 IN CNAME alias.mesh.test."
    assert nowhere.rcode() == dns.rcode.NXDOMAIN
    assert len(nowhere.answer) == 2
    assert [rrset.to_text() for rrset in somewhere.answer] == [
        f"{NAME}. 1 IN CNAME alias.mesh.test.",
        "alias.mesh.test. 1 IN CNAME real.mesh.test.",
        "real.mesh.test. 1 IN A 127.0.0.11",
    ]


def test_a_loop_of_cnames_ends() -> None:
    """Records that point at each other get an answer with no address in it."""
    with DnsServer() as server:
        server.add("a.mesh.test", "CNAME", "b.mesh.test")
        server.add("b.mesh.test", "CNAME", "a.mesh.test")
        response = ask(server, "a.mesh.test", payload=4096)
        assert response.rcode() == dns.rcode.NOERROR
        with pytest.raises(dns.exception.DNSException):
            resolver_at(server).resolve("a.mesh.test")


def test_what_does_not_fit_is_truncated_and_served_over_tcp() -> None:
    """20 SRV records do not fit 512 bytes, nor 1232 with long targets; they do fit TCP and a larger EDNS payload."""
    records = [f"0 1 50051 instance-{n}-{'x' * 30}.svc-a.mesh.test." for n in range(20)]
    with DnsServer() as server:
        server.add(NAME, "SRV", *records)
        for payload in (None, 1232):
            short = ask(server, rdtype="SRV", payload=payload)
            assert short.flags & dns.flags.TC
            assert not short.answer
        for whole in (ask(server, rdtype="SRV", payload=4096), ask(server, rdtype="SRV", tcp=True)):
            assert not whole.flags & dns.flags.TC
            assert [str(rdata) for rdata in whole.answer[0]] == records
        assert [(query.transport, query.payload) for query in server.queries] == [
            ("udp", None),
            ("udp", 1232),
            ("udp", 4096),
            ("tcp", None),
        ]


def test_records_change_while_it_serves() -> None:
    """``add`` adds to the set and sets its TTL, ``set`` replaces it, ``remove`` takes records, sets and names."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11", ttl=5)
        server.add(NAME, "A", "127.0.0.12", ttl=2)
        assert texts(ask(server)) == [f"{NAME}. 2 127.0.0.11", f"{NAME}. 2 127.0.0.12"]
        server.remove(NAME, "A", "127.0.0.11")
        assert texts(ask(server)) == [f"{NAME}. 2 127.0.0.12"]
        server.set(NAME, "A", "127.0.0.13")
        server.set(NAME, "AAAA", "::1")
        assert texts(ask(server)) == [f"{NAME}. 1 127.0.0.13"]
        server.remove(NAME, "A")
        assert ask(server).rcode() == dns.rcode.NOERROR
        server.remove(NAME)
        server.remove(NAME, "A", "127.0.0.11")  # missing records are ignored
        assert ask(server).rcode() == dns.rcode.NXDOMAIN


def test_names_have_no_case() -> None:
    """A resolver that varies the case of names, against forgers, gets its own spelling back (draft 0x20)."""
    with DnsServer() as server:
        server.add("Svc-A.mesh.test.", "A", "127.0.0.11")
        response = ask(server, "sVc-A.MESH.test")
        assert response.question[0].name.to_text() == "sVc-A.MESH.test."
        assert response.answer[0][0].address == "127.0.0.11"
        assert server.queries[0].name == NAME


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ((NAME, "A"), "no A record was given"),
        ((NAME, "A", "nonsense"), r"A records of svc-a.mesh.test cannot be \('nonsense',\)"),
        ((NAME, "SRV", "50051 a.mesh.test"), "SRV records"),
        ((NAME, "SVR", "0 1 50051 a.mesh.test"), "'SVR' is not a DNS record type"),
        (("a..b", "A", "127.0.0.1"), r"'a..b' is not a domain name"),
        (("taken.mesh.test", "CNAME", NAME), "taken.mesh.test has A: a name with a CNAME has no other records"),
        (("alias.mesh.test", "A", "127.0.0.1"), "alias.mesh.test has CNAME: a name with a CNAME has no other records"),
    ],
)
def test_bad_records_are_refused(records: tuple[str, ...], message: str) -> None:
    """The error names the record, and nothing has changed."""
    with DnsServer() as server:
        server.add("taken.mesh.test", "A", "127.0.0.11")
        server.add("alias.mesh.test", "CNAME", "taken.mesh.test")
        with pytest.raises(ValueError, match=message):
            server.add(*records)
        with pytest.raises(ValueError, match=message):
            server.set(*records)
        assert len(ask(server, "alias.mesh.test").answer) == 2
        assert ask(server).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NXDOMAIN"])
def test_it_refuses_with_any_code(rcode: str) -> None:
    """The response has the code and no records, for the configured name and no other."""
    with DnsServer() as server:
        server.add(NAME, "A", *ADDRESSES)
        server.add("other.mesh.test", "A", *ADDRESSES)
        server.fault(NAME, rcode=rcode)
        response = ask(server)
        assert (dns.rcode.to_text(response.rcode()), response.answer) == (rcode, [])
        assert len(texts(ask(server, "other.mesh.test"))) == 2
        server.heal()
        assert len(texts(ask(server))) == 2


def test_unknown_codes_and_numbers_of_times_are_refused() -> None:
    """A misspelt fault is an error at once, not a test that passes for the wrong reason."""
    with DnsServer() as server:
        with pytest.raises(ValueError, match=r"got 'SERVERFAIL'; known: NOERROR, .*SERVFAIL"):
            server.fault(rcode="SERVERFAIL")
        with pytest.raises(ValueError, match="times must be at least 1"):
            server.fault(rcode="SERVFAIL", times=0)


def test_answers_may_be_empty_short_lived_truncated_or_forged() -> None:
    """Each switch changes only that property of the answer."""
    with DnsServer() as server:
        server.add(NAME, "A", *ADDRESSES, ttl=60)
        server.fault(empty=True, times=1)
        server.fault(ttl=0, times=1)
        server.fault(truncate=True, times=2)
        server.fault(wrong_id=True, times=1)
        assert (ask(server).rcode(), server.queries[-1].transport) == (dns.rcode.NOERROR, "udp")
        assert texts(ask(server)) == [f"{NAME}. 0 {address}" for address in ADDRESSES]
        short = ask(server)
        assert (short.flags & dns.flags.TC, short.answer) == (dns.flags.TC, [])
        assert len(texts(ask(server, tcp=True))) == 2
        with pytest.raises(dns.query.BadResponse):
            ask(server)
        assert len(texts(ask(server))) == 2


def test_the_narrowest_fault_counts_and_counted_ones_come_first() -> None:
    """Name and type before name, name before type before all; within one the script runs as written."""
    with DnsServer() as server:
        for rdtype, rdata in (("A", "127.0.0.11"), ("AAAA", "::1")):
            server.add(NAME, rdtype, rdata)
        server.fault(rcode="REFUSED")
        server.fault(NAME, rcode="SERVFAIL", times=2)
        server.fault(NAME, rcode="NXDOMAIN", times=1)
        server.fault(NAME, "AAAA", rcode="NOTIMP")
        assert [dns.rcode.to_text(ask(server).rcode()) for _ in range(4)] == [
            "SERVFAIL",
            "SERVFAIL",
            "NXDOMAIN",
            "REFUSED",
        ]
        assert ask(server, rdtype="AAAA").rcode() == dns.rcode.NOTIMP
        server.heal(NAME)
        assert ask(server, rdtype="AAAA").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("tcp", [False, True])
def test_dropped_questions_time_out(tcp: bool) -> None:
    """There is no answer, over TCP the connection stays open, and the query is recorded."""
    with DnsServer() as server:
        server.add(NAME, "A", *ADDRESSES)
        server.fault(drop=True)
        with pytest.raises(dns.exception.Timeout):
            ask(server, tcp=tcp, timeout=0.1)
        assert len(server.wait_for_queries(1)) == 1


def test_a_delayed_answer_holds_up_no_other() -> None:
    """While one client waits for its slow name, another is served."""
    with DnsServer() as server:
        server.add("slow.mesh.test", "A", "127.0.0.11")
        server.add("fast.mesh.test", "A", "127.0.0.12")
        server.fault("slow.mesh.test", delay=0.2)
        ends: list[str] = []

        def wait_for(name: str) -> None:
            ask(server, name)
            ends.append(name)

        slow = threading.Thread(target=wait_for, args=("slow.mesh.test",))
        begun = time.monotonic()
        slow.start()
        server.wait_for_queries(1)
        wait_for("fast.mesh.test")
        slow.join(5)
        assert ends == ["fast.mesh.test", "slow.mesh.test"]
        assert time.monotonic() - begun >= 0.2


def test_queries_are_remembered_and_awaited() -> None:
    """Name, type, transport and time of each; waiting for more queries than arrive is an error that lists them."""
    with DnsServer() as server:
        begun = time.monotonic()
        ask(server, rdtype="AAAA")
        (query,) = server.wait_for_queries(1)
        assert (query.name, query.type, query.transport, query.payload) == (NAME, "AAAA", "udp", None)
        assert begun <= query.at <= time.monotonic()
        with pytest.raises(TimeoutError, match=r"1 of 2 queries arrived within 0.01 s: svc-a.mesh.test AAAA"):
            server.wait_for_queries(2, timeout=0.01)


def test_a_dead_server_refuses_and_comes_back_on_its_port() -> None:
    """Stopped it refuses UDP and TCP; started again it serves the same records on the same port."""
    with DnsServer() as server:
        server.add(NAME, "A", *ADDRESSES)
        address = server.address
        server.stop()
        server.stop()
        for tcp in (False, True):
            with pytest.raises((ConnectionRefusedError, dns.exception.Timeout)):
                ask(server, tcp=tcp, timeout=0.5)
        assert repr(server) == f"<DnsServer {address} stopped, 0 queries>"
        server.start()
        server.start()
        assert server.address == address
        assert len(texts(ask(server))) == len(texts(ask(server, tcp=True))) == 2
        assert repr(server) == f"<DnsServer {address} serving, 2 queries>"


def test_two_servers_cannot_share_a_port() -> None:
    """An explicit port that is taken is an error that names it."""
    with DnsServer() as server, pytest.raises(OSError, match=f"cannot serve on {server.address}"):
        DnsServer(port=server.port)


def test_several_questions_on_one_connection_are_all_answered() -> None:
    """TCP messages may arrive in one packet, or byte by byte (RFC 7766)."""
    with DnsServer() as server, socket.create_connection((server.host, server.port), timeout=5) as connection:
        server.add(NAME, "A", *ADDRESSES)
        queries = [dns.message.make_query(NAME, "A") for _ in range(3)]
        wire = b"".join(query.to_wire(prepend_length=True) for query in queries)
        connection.sendall(wire[:-7])
        connection.sendall(wire[-7:])
        answers = connection.makefile("rb")
        for query in queries:
            length = int.from_bytes(answers.read(2))
            assert query.is_response(dns.message.from_wire(answers.read(length)))
        answers.close()


def test_garbage_is_survived(rng: Random) -> None:
    """Invalid messages get no answer, other operations NOTIMP, and it keeps serving."""
    with DnsServer() as server:
        server.add(NAME, "A", *ADDRESSES)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"\xff" * 5, (server.host, server.port))
            client.sendto(rng.randbytes(64), (server.host, server.port))
        notify = dns.message.make_query(NAME, "SOA")
        notify.set_opcode(dns.opcode.NOTIFY)
        assert dns.query.udp(notify, server.host, port=server.port, timeout=5).rcode() == dns.rcode.NOTIMP
        assert len(texts(ask(server))) == 2


def test_a_stub_resolver_is_content() -> None:
    """dnspython's resolver follows the CNAME, falls back to TCP and distinguishes NXDOMAIN from no answer."""
    with DnsServer() as server:
        server.add(NAME, "CNAME", "real.mesh.test")
        server.add("real.mesh.test", "A", *(f"127.0.1.{n}" for n in range(1, 101)))
        resolver = resolver_at(server)
        answer = resolver.resolve(NAME)
        assert (len(answer), answer.canonical_name.to_text()) == (100, "real.mesh.test.")
        assert [query.transport for query in server.queries] == ["udp", "tcp"]
        with pytest.raises(dns.resolver.NoAnswer):
            resolver.resolve(NAME, "AAAA")
        with pytest.raises(dns.resolver.NXDOMAIN):
            resolver.resolve("nowhere.mesh.test")


async def test_it_serves_asyncio_from_its_own_thread() -> None:
    """A loop may query the server that it owns, with many queries in flight."""
    with DnsServer() as server:
        server.add(NAME, "A", *ADDRESSES)
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [server.host], server.port
        answers = await asyncio.gather(*(resolver.resolve(NAME) for _ in range(20)))
        assert all([rdata.address for rdata in answer] == list(ADDRESSES) for answer in answers)
        assert len(await asyncio.to_thread(server.wait_for_queries, 20)) == 20


@pytest.mark.parametrize("host", ["127.0.0.53", "::1"])
def test_any_loopback_address_will_do(host: str) -> None:
    """Several name servers may share port numbers; IPv6 has brackets in ``address``."""
    with DnsServer(host) as server:
        server.add(NAME, "A", *ADDRESSES)
        assert len(texts(ask(server))) == 2
        assert server.address == (f"[::1]:{server.port}" if ":" in host else f"{host}:{server.port}")


def _sockets() -> set[str]:
    """Sockets of this process; grpc may open its own at any time, but none of those are sockets."""
    held = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the folder's own
            held.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in held if link.startswith("socket:")}


def test_closing_leaves_nothing_behind() -> None:
    """Threads and descriptors are as before, with connections open, answers pending and no query at all."""
    sockets, threads = _sockets(), threading.enumerate()
    for turn in range(100):
        with DnsServer() as server, socket.socket() as client, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            if turn % 2:
                server.fault(delay=30)
                client.connect((server.host, server.port))
                datagrams.sendto(dns.message.make_query(NAME, "A").to_wire(), (server.host, server.port))
            if turn % 4 == 3:
                server.wait_for_queries(1)
        server.close()
        assert threading.enumerate() == threads
    assert _sockets() == sockets
