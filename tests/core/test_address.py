"""Host and port, in every accepted spelling and some rejected ones."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.address import HostPort, canonical_ip, is_endpoint_address, join, parse_host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("svc-a", "svc-a", None),
        ("svc-a:50051", "svc-a", 50051),
        ("svc_a.ns.svc.cluster.local.:1", "svc_a.ns.svc.cluster.local.", 1),
        ("10.0.0.7:65535", "10.0.0.7", 65535),
        ("[::1]:80", "::1", 80),
        ("[::1]", "::1", None),
        ("::1", "::1", None),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("127.1:80", "127.1", 80),
        ("a" * 63 + ":1", "a" * 63, 1),
    ],
)
def test_host_and_port(text: str, host: str, port: int | None) -> None:
    """Names, IPv4 and IPv6, with and without a port."""
    assert parse_host_port(text) == HostPort(host=host, port=port)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        (":80", "empty"),
        ("svc-a:", "port '' of 'svc-a:' must be a number from 1 to 65535"),
        ("svc-a:0", "from 1 to 65535"),
        ("svc-a:65536", "from 1 to 65535"),
        ("svc-a:+80", "from 1 to 65535"),
        ("svc-a:८०", "from 1 to 65535"),
        ("svc-a:http", "from 1 to 65535"),
        ("::1:80:", "more than one colon"),
        ("fe80::1::2", r"written \[IPv6\]:port"),
        ("[::1", r"must be \[IPv6\]:port"),
        ("[::1]80", r"must be \[IPv6\]:port"),
        ("[10.0.0.7]:80", "is not an IPv6 address"),
        ("[svc-a]:80", "is not an IPv6 address"),
        ("a b:80", "the label 'a b'"),
        ("a..b", "the label ''"),
        ("-a", "the label '-a'"),
        ("a/b", "the label 'a/b'"),
        ("a" * 64, "1 to 63"),
        (".".join(["a" * 63] * 4), "longer than 253"),
        ("bücher", "xn-- form"),
    ],
)
def test_what_is_refused(text: str, complaint: str) -> None:
    """The error shows the value and the allowed form."""
    with pytest.raises(ValueError, match=complaint):
        parse_host_port(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_addresses_survive_the_way_out_and_back(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    """``parse_host_port`` reads the output of ``join``, which is a valid endpoint address."""
    written = join(str(address), port)
    assert parse_host_port(written) == HostPort(host=str(address), port=port)
    assert is_endpoint_address(written)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Any text parses or raises ValueError; accepted text round-trips."""
    try:
        parsed = parse_host_port(text)
    except ValueError:
        return
    assert parse_host_port(str(parsed)).port == parsed.port


def test_one_spelling_of_an_address() -> None:
    """Two spellings of an IPv6 address compare equal (RFC 5952)."""
    assert canonical_ip("0:0:0:0:0:0:0:1") == "::1"
    assert join("FE80:0::1", 80) == "[fe80::1]:80"
    assert canonical_ip("svc-a") is None


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.0.0.7:50051", True),
        ("[::1]:50051", True),
        ("unix:/run/a.sock", True),
        ("unix:", False),
        ("10.0.0.7", False),
        ("web-1:50051", False),
        ("dns:///web-1:50051", False),
        ("", False),
    ],
)
def test_what_an_endpoint_may_have_for_an_address(address: str, allowed: bool) -> None:
    """An endpoint's address can be connected to without a lookup."""
    assert is_endpoint_address(address) is allowed
