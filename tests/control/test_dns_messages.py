"""What a name server's message means, and what a resolv.conf says."""

from pathlib import Path

import dns.exception
import dns.message
import pytest

from meshlib._adapt.dns import answer, dns_config, question
from meshlib._core.address import HostPort
from meshlib._core.discovery.srv import SrvRecord

SOA = ". 30 IN SOA ns. hostmaster. 1 3600 600 86400 7"


def message(asked: str, *, answers: str = "", authority: str = "", rcode: str = "NOERROR") -> dns.message.Message:
    """A response in dnspython's own text form."""
    lines = ["id 1", "opcode QUERY", f"rcode {rcode}", "flags QR RD RA"]
    sections = {"QUESTION": asked, "ANSWER": answers, "AUTHORITY": authority, "ADDITIONAL": "x. 1 IN A 10.9.9.9"}
    for section, text in sections.items():
        lines += [f";{section}", text] if text else []
    return dns.message.from_text("\n".join(lines))


def test_a_question_has_edns() -> None:
    """Recursion is desired, and 1232 bytes are taken over UDP (DNS flag day 2020)."""
    asked = question("svc-a.example.", "SRV")
    assert (asked.edns, asked.payload) == (0, 1232)
    assert "RD" in asked.to_text()
    assert question("svc-a", "A").question[0].name.is_absolute()


def test_addresses() -> None:
    """In the canonical spelling; the TTL is that of the set; what the server adds unasked is not used."""
    found = answer(message("a. IN AAAA", answers="a. 9 IN AAAA fe80:0::1\na. 9 IN AAAA ::1"))
    assert (found.code, set(found.addresses), found.ttl, found.alias) == ("NOERROR", {"fe80::1", "::1"}, 9.0, None)
    assert found.certain
    assert found.found == 2


def test_services() -> None:
    """Targets in lower case and without the last dot; "." is no name at all."""
    found = answer(message("s. IN SRV", answers="s. 9 IN SRV 1 2 3 Web-1.Example.\ns. 9 IN SRV 0 0 0 ."))
    assert set(found.records) == {
        SrvRecord(priority=1, weight=2, port=3, target="web-1.example"),
        SrvRecord(priority=0, weight=0, port=0, target=""),
    }


def test_the_ttl_of_an_alias_counts() -> None:
    """The least of the TTLs that led to the answer."""
    found = answer(message("a. IN A", answers="a. 5 IN CNAME b.\nb. 60 IN CNAME c.\nc. 30 IN A 10.0.0.1"))
    assert (found.addresses, found.ttl) == (("10.0.0.1",), 5.0)


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
def test_nothing(rcode: str) -> None:
    """No such record, or no such name: certain, for as long as the SOA says (RFC 2308)."""
    found = answer(message("a. IN A", authority=SOA, rcode=rcode))
    assert (found.code, found.found, found.ttl, found.alias) == (rcode, 0, 7.0, None)
    assert found.certain
    assert answer(message("a. IN A", rcode=rcode)).ttl == 0.0


def test_an_alias_to_nothing() -> None:
    """With an SOA the server has looked: the alias ends nowhere."""
    found = answer(message("a. IN A", answers="a. 5 IN CNAME b.", authority=SOA))
    assert (found.found, found.alias) == (0, None)


def test_an_alias_left_to_the_client() -> None:
    """An authoritative server stops at the border of its zone; the referral it adds is no SOA."""
    found = answer(message("a. IN A", answers="a. 5 IN CNAME b.org.", authority="org. 9 IN NS ns.org."))
    assert (found.found, found.alias, found.ttl) == (0, "b.org.", 5.0)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"])
def test_a_server_that_does_not_know(rcode: str) -> None:
    """Any other code says nothing about the name, whatever else the message holds."""
    found = answer(message("a. IN A", answers="a. 9 IN A 10.0.0.1", rcode=rcode))
    assert not found.certain
    assert (found.code, found.found) == (rcode, 0)


def test_nonsense() -> None:
    """A loop of aliases is an error of dnspython's, for the one who asks to catch."""
    with pytest.raises(dns.exception.DNSException):
        answer(message("a. IN A", answers="a. 5 IN CNAME b.\nb. 5 IN CNAME a."))


@pytest.mark.parametrize(
    ("text", "nameservers", "search", "ndots"),
    [
        ("nameserver 10.0.0.2\nnameserver ::1\n", ["10.0.0.2:53", "[::1]:53"], (), 1),
        ("search a.example b.example.\noptions ndots:5 timeout:1\nnameserver 10.0.0.2", ["10.0.0.2:53"],
         ("a.example", "b.example"), 5),
        ("domain a.example\nnameserver 10.0.0.2", ["10.0.0.2:53"], ("a.example",), 1),
        ("search .\nnameserver 10.0.0.2", ["10.0.0.2:53"], (), 1),
        ("# nothing", ["127.0.0.1:53"], (), 1),
    ],
)  # fmt: skip
def test_resolv_conf(tmp_path: Path, text: str, nameservers: list[str], search: tuple[str, ...], ndots: int) -> None:
    """Name servers, search domains and ndots; without a server the one on this machine, as libc does."""
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    config = dns_config(path)
    assert [str(server) for server in config.nameservers] == nameservers
    if search or "search" in text:
        assert config.search == search
    assert config.ndots == ndots


def test_no_resolv_conf(tmp_path: Path) -> None:
    """The name server on this machine."""
    assert dns_config(tmp_path / "none").nameservers == (HostPort(host="127.0.0.1", port=53),)
