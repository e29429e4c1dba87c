"""The harness around BIND works as the discovery tests expect, and BIND as its documentation says."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.update
import pytest
from tests.e2e.bind import Bind

NAME = "svc-a.mesh.test"


@pytest.fixture
def bind(require_real: Callable[[str, str], Path], tmp_path: Path) -> Iterator[Bind]:
    """A name server of this test's own."""
    with Bind(require_real("named", "bind9"), tmp_path) as server:
        yield server


def ask(
    server: Bind,
    name: str = NAME,
    rdtype: str = "A",
    *,
    tcp: bool = False,
    payload: int | None = None,
    timeout: float = 5.0,
) -> dns.message.Message:
    """Send one query, over UDP with the client's EDNS payload, or over TCP."""
    query = dns.message.make_query(name, rdtype, use_edns=payload is not None, payload=payload or 0)
    return (dns.query.tcp if tcp else dns.query.udp)(query, server.host, port=server.port, timeout=timeout)


def records(response: dns.message.Message) -> set[str]:
    """The answer section."""
    return {f"{rrset.name} {rrset.ttl} {rdata}" for rrset in response.answer for rdata in rrset}


@pytest.mark.parametrize(
    ("rdtype", "first", "second"),
    [
        ("A", "127.0.0.11", "127.0.0.12"),
        ("AAAA", "::1", "::2"),
        ("SRV", "0 3 50051 a.mesh.test.", "1 1 50052 b.mesh.test."),
    ],
)
def test_records_are_added_replaced_and_removed(bind: Bind, rdtype: str, first: str, second: str) -> None:
    """The next query sees each update, over UDP and TCP."""
    bind.add(NAME, rdtype, first)
    assert records(ask(bind, rdtype=rdtype)) == {f"{NAME}. 1 {first}"}
    bind.add(NAME, rdtype, second, ttl=2)
    assert records(ask(bind, rdtype=rdtype, tcp=True)) == {f"{NAME}. 2 {first}", f"{NAME}. 2 {second}"}
    bind.set(NAME, rdtype, second)
    assert records(ask(bind, rdtype=rdtype)) == {f"{NAME}. 1 {second}"}
    bind.add(NAME, rdtype, first)
    bind.remove(NAME, rdtype, second)
    assert records(ask(bind, rdtype=rdtype)) == {f"{NAME}. 1 {first}"}
    bind.remove(NAME, rdtype)
    assert ask(bind, rdtype=rdtype).rcode() == dns.rcode.NXDOMAIN


def test_names_are_followed_missed_and_refused(bind: Bind) -> None:
    """A CNAME includes its target; NODATA is not NXDOMAIN; other zones are REFUSED."""
    bind.add(NAME, "CNAME", "real.mesh.test")
    bind.add("real.mesh.test", "A", "127.0.0.11")
    assert records(ask(bind)) == {f"{NAME}. 1 real.mesh.test.", "real.mesh.test. 1 127.0.0.11"}
    nodata, missing = ask(bind, "real.mesh.test", "SRV"), ask(bind, "nowhere.mesh.test")
    assert (nodata.rcode(), nodata.answer) == (dns.rcode.NOERROR, [])
    assert missing.rcode() == dns.rcode.NXDOMAIN
    assert ask(bind, "svc-a.other.test").rcode() == dns.rcode.REFUSED
    bind.remove(NAME)
    assert ask(bind).rcode() == dns.rcode.NXDOMAIN


def glue(response: dns.message.Message) -> int:
    """Number of SRV targets with an address in the additional section."""
    return sum(rrset.name.to_text().startswith("instance-") for rrset in response.additional)


@pytest.mark.parametrize(("instances", "with_glue"), [(3, 3), (13, 13), (14, 0), (20, 0)])
def test_addresses_come_along_or_not(bind: Bind, instances: int, with_glue: int) -> None:
    """All records are answered; for more than 13 targets BIND adds no address at all, however large the message."""
    names = [f"instance-{n}.mesh.test" for n in range(instances)]
    bind.add(NAME, "SRV", *(f"0 1 50051 {name}" for name in names))
    for n, name in enumerate(names):
        bind.add(name, "A", f"127.0.0.{n + 11}")
    for response in (ask(bind, rdtype="SRV", tcp=True), ask(bind, rdtype="SRV", payload=1232)):
        assert (len(records(response)), glue(response)) == (instances, with_glue)


def test_a_truncated_answer_has_some_of_the_records(bind: Bind) -> None:
    """20 SRV records do not fit 512 bytes: the TC bit, and a part that looks complete if the bit is ignored."""
    bind.add(NAME, "SRV", *(f"0 1 50051 instance-{n}.mesh.test" for n in range(20)))
    short = ask(bind, rdtype="SRV")
    assert short.flags & dns.flags.TC
    assert 0 < len(records(short)) < 20
    assert len(records(ask(bind, rdtype="SRV", payload=1232))) == 20


def test_updates_must_be_signed(bind: Bind) -> None:
    """An update without the key changes nothing."""
    update = dns.update.UpdateMessage(bind.zone)
    update.add("svc-a", 1, "A", "127.0.0.11")
    assert dns.query.tcp(update, bind.host, port=bind.port, timeout=5).rcode() == dns.rcode.REFUSED
    with pytest.raises(RuntimeError, match="BIND answered NOTZONE"):
        bind.add("svc-a.other.test", "A", "127.0.0.11")
    assert ask(bind).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("end", [Bind.stop, Bind.kill])
def test_records_survive_its_death(bind: Bind, end: Callable[[Bind], None]) -> None:
    """A dead server refuses; restarted on the same port, it has the updated records."""
    bind.add(NAME, "A", "127.0.0.11")
    address = bind.address
    end(bind)
    end(bind)
    for tcp in (False, True):
        with pytest.raises((ConnectionRefusedError, dns.exception.Timeout)):
            ask(bind, tcp=tcp, timeout=0.2)
    bind.start()
    assert bind.address == address
    assert records(ask(bind)) == {f"{NAME}. 1 127.0.0.11"}


def test_a_paused_server_is_silent(bind: Bind) -> None:
    """Queries time out; after resume they are answered."""
    bind.add(NAME, "A", "127.0.0.11")
    bind.pause()
    with pytest.raises(dns.exception.Timeout):
        ask(bind, timeout=0.2)
    bind.resume()
    assert records(ask(bind)) == {f"{NAME}. 1 127.0.0.11"}


def test_nothing_runs_after_close(require_real: Callable[[str, str], Path], tmp_path: Path) -> None:
    """The process is gone, and a server that cannot start reports why with its own output."""
    with Bind(require_real("named", "bind9"), tmp_path) as server:
        pid = server._child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.close()
    folder = tmp_path / "second"
    folder.mkdir()
    with pytest.raises(RuntimeError, match=r"(?s)named ended with status 1:.*loading configuration: unexpected token"):
        Bind(require_real("named", "bind9"), folder, zone='mesh".test')
