"""Name servers that fail, hang or misread a query, and which server is queried instead."""

import asyncio
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from tests.e2e.discovery.asking import NAME, SRV, Files

from meshlib._control.lookup import Lookup
from meshlib._control.system import SystemFiles
from meshlib._core.discovery.policy import DnsPolicy, Family
from meshlib._core.discovery.steps import ResolveError
from meshlib.testing import DnsServer

# --- failures ---


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"])
async def test_a_server_that_does_not_know(files: Files, rcode: str) -> None:
    """An error code does not answer the query; the next server is queried, and without one the error names server and
    query."""
    with DnsServer() as bad, DnsServer() as good:
        for server in (bad, good):
            server.add(NAME, "A", "127.0.0.11")
        bad.fault(rcode=rcode)
        with pytest.raises(ResolveError) as caught:
            await Lookup(DnsPolicy(), files(), [bad.address]).inquire().addresses(NAME)
        assert not caught.value.absent
        twice = " (2 times)" if rcode in ("NOTIMP", "FORMERR") else ""  # once more, without EDNS
        assert str(caught.value) == (
            f"no name server answered the A query for {NAME}. (A {NAME}. from {bad.address}: {rcode}{twice}; "
            f"AAAA {NAME}. from {bad.address}: {rcode}{twice})"
        )
        both = Lookup(DnsPolicy(), files(), [bad.address, good.address])
        found = await both.inquire().addresses(NAME)
        asked_bad = [(bad.address, rcode)] * (2 if twice else 1)
        assert [(step.source, step.answer) for step in found.steps] == [*asked_bad, (good.address, "1 record")]


async def test_a_name_that_does_not_exist(files: Files) -> None:
    """NXDOMAIN is cached for the SOA's time; the error lists every name that was tried."""
    with DnsServer(negative_ttl=7) as server:
        lookup = Lookup(DnsPolicy(), files(resolv_conf="search one.test\n"), [server.address])
        with pytest.raises(ResolveError) as caught:
            await lookup.inquire().addresses("svc-a")
        assert (caught.value.absent, caught.value.ttl) == (True, 7.0)
        assert str(caught.value) == (
            f"DNS has no address for 'svc-a' (A svc-a.one.test. from {server.address}: NXDOMAIN; "
            f"AAAA svc-a.one.test. from {server.address}: NXDOMAIN; A svc-a. from {server.address}: NXDOMAIN; "
            f"AAAA svc-a. from {server.address}: NXDOMAIN)"
        )


async def test_a_silent_server_is_asked_again_until_the_deadline(files: Files) -> None:
    """A lost packet is retried; a server that never answers fails, and the error counts the queries."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        server.fault(NAME, drop=True, times=2)
        lookup = Lookup(DnsPolicy(family="v4", query_timeout=0.5, timeout=10.0), files(), [server.address])
        assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.11",)
        assert len(server.queries) == 3
        server.fault(NAME, drop=True)
        hopeless = Lookup(DnsPolicy(query_timeout=0.05, timeout=0.2), files(), [server.address])
        with pytest.raises(ResolveError, match=r"no answer within 0.05 s \(\d times\)") as caught:
            await hopeless.inquire().addresses(NAME)
        assert not caught.value.absent


async def test_a_dead_server_is_passed_over(files: Files) -> None:
    """The second server answers; it then comes first, until the dead one has had time to return."""
    with DnsServer() as silent, DnsServer() as good:
        silent.fault(drop=True)
        good.add(NAME, "A", "127.0.0.11")
        lookup = Lookup(DnsPolicy(family="v4", query_timeout=1.0), files(), [silent.address, good.address])
        for _ in range(3):
            assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.11",)
        assert (len(silent.queries), len(good.queries)) == (1, 3)
        good.fault(drop=True, times=1)
        silent.heal()
        silent.add(NAME, "A", "127.0.0.12")
        assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.12",)


async def test_a_server_that_fails_for_one_name_is_still_asked_first(files: Files) -> None:
    """The server may be the only one with the other names; the second would deny them, and its denial would count."""
    with DnsServer() as internal, DnsServer() as public:
        internal.add(NAME, "A", "127.0.0.11")
        internal.fault("broken.test", rcode="SERVFAIL")
        internal.add("ring.test", "CNAME", "ring.test")
        lookup = Lookup(DnsPolicy(), files(), [internal.address, public.address])
        for name in ("broken.test", "ring.test"):
            with pytest.raises(ResolveError):
                await lookup.inquire().addresses(name)
            assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.11",)


async def test_a_closed_port_is_known_at_once(files: Files) -> None:
    """No lookup waits for a name server when the kernel reports a closed port."""
    with DnsServer() as gone, DnsServer() as good:
        good.add(NAME, "A", "127.0.0.11")
        gone.stop()
        lookup = Lookup(DnsPolicy(query_timeout=30.0, timeout=30.0), files(), [gone.address, good.address])
        found = await asyncio.wait_for(lookup.inquire().addresses(NAME), 10)
        assert found.ips == ("127.0.0.11",)
        assert found.steps[0].source == gone.address
        assert "Connection refused" in found.steps[0].answer


async def test_a_dead_server_delays_nobody_else(files: Files) -> None:
    """Queries to a good server are answered while one waits for a dead one."""
    with DnsServer() as silent, DnsServer() as good:
        silent.fault(drop=True)
        good.add(NAME, "A", "127.0.0.11")
        waiting = asyncio.create_task(Lookup(DnsPolicy(), files(), [silent.address]).inquire().addresses(NAME))
        await asyncio.to_thread(silent.wait_for_queries, 1)
        for _ in range(20):
            await Lookup(DnsPolicy(), files(), [good.address]).inquire().addresses(NAME)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_name_server_may_have_a_name(files: Files) -> None:
    """``dns://consul:8600/...`` in a compose file: the machine's own files and servers resolve it."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        lookup = Lookup(DnsPolicy(), files(hosts="127.0.0.1 consul\n"), [f"consul:{server.port}"])
        assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.11",)
        unknown = Lookup(DnsPolicy(query_timeout=0.05, timeout=0.1), files(), ["nowhere:53"])
        with pytest.raises(ResolveError, match="name server 'nowhere:53' has no address"):
            await unknown.inquire().addresses(NAME)


async def test_the_policy_names_the_servers(files: Files) -> None:
    """Servers of the target precede those of the policy, which precede the machine's."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        policy = DnsPolicy(nameservers=(server.address,))
        assert (await Lookup(policy, files()).inquire().addresses(NAME)).ips == ("127.0.0.11",)
        found = (
            await Lookup(DnsPolicy(nameservers=("127.0.0.1:1",)), files(), [server.address]).inquire().addresses(NAME)
        )
        assert found.ips == ("127.0.0.11",)


async def test_a_malformed_resolv_conf(files: Files) -> None:
    """Lines that glibc skips do not end resolution: host names, other encodings, impossible domains."""
    with DnsServer() as server:
        server.add("svc-a.good.test", "A", "127.0.0.11")
        lookup = Lookup(
            DnsPolicy(),
            files(resolv_conf=b"nameserver example.org\nsearch a..b \xff\xfe good.test\n"),
            [server.address],
        )
        assert (await lookup.inquire().addresses("svc-a")).ips == ("127.0.0.11",)
        assert [str(each) for each in lookup.files.dns().nameservers] == ["127.0.0.1:53"]


async def test_the_environment_of_the_resolver(tmp_path: Path) -> None:
    """``LOCALDOMAIN`` replaces the search domains, ``RES_OPTIONS`` adds options, and both may change at any time."""
    (tmp_path / "resolv.conf").write_text("search one.test\n")
    environ: dict[str, str] = {}
    with DnsServer() as server:
        server.add("svc-a.one.test", "A", "127.0.0.11")
        server.add("svc-a.two.test", "A", "127.0.0.12")
        lookup = Lookup(
            DnsPolicy(), SystemFiles(tmp_path / "resolv.conf", tmp_path / "hosts", environ), [server.address]
        )
        assert (await lookup.inquire().addresses("svc-a")).ips == ("127.0.0.11",)
        environ.update(LOCALDOMAIN="two.test", RES_OPTIONS="use-vc")
        assert (await lookup.inquire().addresses("svc-a")).ips == ("127.0.0.12",)
        assert [(query.name, query.transport) for query in server.queries] == [
            ("svc-a.one.test", "udp"),
            ("svc-a.two.test", "tcp"),
        ]


async def test_a_domain_without_an_answer_does_not_hide_the_name_as_written(files: Files) -> None:
    """A stale search domain ends the search; but a name with a dot may be complete as written."""
    with DnsServer() as server:
        server.fault("svc-a.mesh.test.stale.test", rcode="SERVFAIL")
        server.fault("_grpc._tcp.svc-a.mesh.test.stale.test", rcode="SERVFAIL")
        server.add(NAME, "A", "127.0.0.11", ttl=60)
        server.add("svc-a.mesh.test.two.test", "A", "127.0.0.12")
        server.add(SRV, "SRV", "0 1 80 a.mesh.test", ttl=60)
        resolv_conf = "search stale.test two.test\noptions ndots:5\n"
        lookup = Lookup(DnsPolicy(), files(resolv_conf=resolv_conf), [server.address])
        found = await lookup.inquire().addresses(NAME)
        assert (found.ips, found.ttl) == (("127.0.0.11",), 5.0)
        assert (await lookup.inquire().services("_grpc._tcp", NAME)).ttl == 5.0
        server.remove(NAME)
        with pytest.raises(ResolveError, match=r"answered the A query for svc-a\.mesh\.test\.stale\.test\.") as caught:
            await lookup.inquire().addresses(NAME)
        assert not caught.value.absent


async def test_a_name_that_becomes_too_long(files: Files) -> None:
    """No server is queried for an impossible name, and none is marked dead for it."""
    with DnsServer() as server:
        name = ".".join(["a" * 60] * 4)
        server.add(name, "A", "127.0.0.11")
        lookup = Lookup(DnsPolicy(), files(), [server.address])
        with pytest.raises(ResolveError, match="not a valid DNS name") as caught:
            await lookup.inquire().services("_a-service-of-a-long-name._tcp", name)
        assert caught.value.absent
        assert (await lookup.inquire().addresses(name)).ips == ("127.0.0.11",)


class WithoutEdns(asyncio.DatagramProtocol):
    """A name server from before EDNS: it answers such queries with an error code, or not at all."""

    def __init__(self, rcode: str | None) -> None:
        self.rcode = rcode
        self.edns: list[bool] = []

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.edns.append(query.edns >= 0)
        response = dns.message.make_response(query, recursion_available=True)
        response.use_edns(False)
        if query.edns < 0:
            response.answer.append(dns.rrset.from_text(query.question[0].name, 9, "IN", "A", "127.0.0.11"))
        elif self.rcode is None:
            return
        else:
            response.set_rcode(dns.rcode.from_text(self.rcode))
            response.question = []  # many send the header alone
        self.transport.sendto(response.to_wire(), addr)


@pytest.mark.parametrize("rcode", ["FORMERR", "NOTIMP", None])
async def test_a_server_that_does_not_take_edns(files: Files, rcode: str | None) -> None:
    """The server is queried again without EDNS, and from then on only so; silence counts as a refusal, too."""
    server = WithoutEdns(rcode)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, ("127.0.0.1", 0))
    try:
        host, port = transport.get_extra_info("sockname")
        policy = DnsPolicy(family="v4", query_timeout=1.0, timeout=10.0)
        lookup = Lookup(policy, files(), [f"{host}:{port}"])
        for _ in range(3):
            assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.11",)
        assert server.edns[0]
        assert not any(server.edns[1:])
    finally:
        transport.close()


@pytest.mark.parametrize("family", ["auto", "all"])
@pytest.mark.parametrize("broken", ["A", "AAAA"])
@pytest.mark.parametrize("fault", ["SERVFAIL", "NXDOMAIN", "silence"])
async def test_one_family_is_broken(files: Files, family: Family, broken: str, fault: str) -> None:
    """The other family is used: some load balancers fail AAAA, firewalls drop it, servers deny names without A."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        server.add(NAME, "AAAA", "::1")
        if fault == "silence":
            server.fault(rdtype=broken, drop=True)
        else:
            server.fault(rdtype=broken, rcode=fault)
        policy = DnsPolicy(family=family, query_timeout=1.0, timeout=10.0)
        lookup = Lookup(policy, files(), [server.address])
        expected = ("::1",) if broken == "A" else ("127.0.0.11",)
        assert (await lookup.inquire().addresses(NAME)).ips == expected
        if family == "all" and fault != "NXDOMAIN":
            server.heal()
            assert (await lookup.inquire().addresses(NAME)).ips == ("127.0.0.11", "::1")


async def test_questions_for_ipv6_that_are_never_answered_are_not_waited_for(files: Files) -> None:
    """After two timeouts in a row AAAA is not queried for a while if there is an A record."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        server.fault(rdtype="AAAA", drop=True)
        lookup = Lookup(DnsPolicy(family="all", query_timeout=1.0), files(), [server.address])
        for _ in range(5):
            found = await lookup.inquire().addresses(NAME, known=("127.0.0.11", "::1"))
            assert found.ips == ("127.0.0.11", "::1"), "the last good address of the family that is silent stays"
        rounds = [query.type for query in server.queries]
        assert rounds.count("A") == 5
        assert rounds[-3:] == ["A"] * 3


async def test_a_name_without_ipv6_is_not_asked_for_it_each_time(files: Files) -> None:
    """The lack of an AAAA record is cached for the SOA's time (RFC 2308)."""
    with DnsServer(negative_ttl=60) as server:
        server.add(NAME, "A", "127.0.0.11")
        lookup = Lookup(DnsPolicy(), files(), [server.address])
        for _ in range(3):
            assert (await lookup.inquire().addresses(NAME, pair=True)).ips == ("127.0.0.11",)
        assert sorted(query.type for query in server.queries) == ["A", "A", "A", "AAAA"]
        for _ in range(3):
            with pytest.raises(ResolveError):
                await lookup.inquire().addresses("none.mesh.test")
        assert sorted(query.type for query in server.queries)[3:] == ["A", "A", "A", "AAAA", "AAAA"]


# --- resources ---


@pytest.mark.parametrize("truncate", [False, True])
async def test_a_cancelled_question_leaves_no_socket(files: Files, truncate: bool) -> None:
    """A cancelled query closes its socket, UDP or TCP; descriptors are counted after the test."""
    with DnsServer() as server:
        server.add(NAME, "A", "127.0.0.11")
        if truncate:
            server.fault(NAME, truncate=True, times=1)
        server.fault(NAME, drop=True)
        question = asyncio.create_task(Lookup(DnsPolicy(), files(), [server.address]).inquire().addresses(NAME))
        asked_so_far = await asyncio.to_thread(server.wait_for_queries, 1 + truncate)
        assert asked_so_far[-1].transport == ("tcp" if truncate else "udp")
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question


async def test_many_names_use_few_sockets(files: Files) -> None:
    """A thousand names do not open a thousand sockets: 64 queries are in flight, the rest are queued."""
    with DnsServer() as server:
        server.fault("svc.test", drop=True)
        server.add("marker.test", "A", "127.0.0.1")
        lookup = Lookup(DnsPolicy(query_timeout=30.0, timeout=30.0), files(), [server.address])
        tasks = [asyncio.create_task(lookup.inquire().addresses("svc.test")) for _ in range(100)]
        await asyncio.to_thread(server.wait_for_queries, 64)
        await Lookup(DnsPolicy(), files(), [server.address]).inquire().addresses("marker.test")
        assert len(server.queries) == 65
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Truncates(asyncio.DatagramProtocol):
    """A name server that refers every client to its TCP port."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = dns.message.make_response(dns.message.from_wire(data))
        response.flags |= dns.flags.TC
        self.transport.sendto(response.to_wire(), addr)


async def test_a_server_that_hangs_up(files: Files) -> None:
    """A connection that ends in the middle is a failure of that server, reported like any other."""

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00")
        writer.close()

    tcp = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    host, port = tcp.sockets[0].getsockname()
    udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(Truncates, local_addr=(host, port))
    try:
        with pytest.raises(ResolveError, match="EOF") as caught:
            await Lookup(DnsPolicy(), files(), [f"{host}:{port}"]).inquire().addresses(NAME)
        assert not caught.value.absent
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()
