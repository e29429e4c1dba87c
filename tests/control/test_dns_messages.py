"""Interpretation of DNS messages."""

import dns.exception
import dns.message
import pytest

from meshlib._adapt.dns import answer, question
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
    """Recursion is desired, and 1232 bytes are accepted over UDP (DNS flag day 2020)."""
    asked = question("svc-a.example.", "SRV")
    assert (asked.edns, asked.payload) == (0, 1232)
    assert "RD" in asked.to_text()
    assert question("svc-a", "A").question[0].name.is_absolute()


def test_addresses() -> None:
    """In the canonical spelling; the TTL is that of the set; unrequested records are ignored."""
    found = answer(message("a. IN AAAA", answers="a. 9 IN AAAA fe80:0::1\na. 9 IN AAAA ::1"))
    assert (found.code, set(found.addresses), found.ttl, found.alias) == ("NOERROR", {"fe80::1", "::1"}, 9.0, None)
    assert found.certain
    assert found.found == 2


def test_services() -> None:
    """Targets in lower case and without the last dot; "." is not a name."""
    found = answer(message("s. IN SRV", answers="s. 9 IN SRV 1 2 3 Web-1.Example.\ns. 9 IN SRV 0 0 0 ."))
    assert set(found.records) == {
        SrvRecord(priority=1, weight=2, port=3, target="web-1.example"),
        SrvRecord(priority=0, weight=0, port=0, target=""),
    }


def test_the_ttl_of_an_alias_counts() -> None:
    """The least TTL on the way to the answer."""
    found = answer(message("a. IN A", answers="a. 5 IN CNAME b.\nb. 60 IN CNAME c.\nc. 30 IN A 10.0.0.1"))
    assert (found.addresses, found.ttl) == (("10.0.0.1",), 5.0)


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
def test_nothing(rcode: str) -> None:
    """No such record, or no such name: certain for the time in the SOA (RFC 2308)."""
    found = answer(message("a. IN A", authority=SOA, rcode=rcode))
    assert (found.code, found.found, found.ttl, found.alias) == (rcode, 0, 7.0, None)
    assert found.certain
    assert answer(message("a. IN A", rcode=rcode)).ttl == 0.0


def test_an_alias_to_nothing() -> None:
    """An SOA proves that the server has looked: the alias leads nowhere."""
    found = answer(message("a. IN A", answers="a. 5 IN CNAME b.", authority=SOA))
    assert (found.found, found.alias) == (0, None)


def test_an_alias_left_to_the_client() -> None:
    """An authoritative server stops at the border of its zone; the referral it adds is not an SOA record."""
    found = answer(message("a. IN A", answers="a. 5 IN CNAME b.org.", authority="org. 9 IN NS ns.org."))
    assert (found.found, found.alias, found.ttl) == (0, "b.org.", 5.0)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"])
def test_a_server_that_does_not_know(rcode: str) -> None:
    """Any other code says nothing about the name, whatever else the message holds."""
    found = answer(message("a. IN A", answers="a. 9 IN A 10.0.0.1", rcode=rcode))
    assert not found.certain
    assert (found.code, found.found) == (rcode, 0)


def test_nonsense() -> None:
    """A loop of aliases raises dnspython's error, which the caller catches."""
    with pytest.raises(dns.exception.DNSException):
        answer(message("a. IN A", answers="a. 5 IN CNAME b.\nb. 5 IN CNAME a."))
