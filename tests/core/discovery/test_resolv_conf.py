"""The resolver configuration of the machine, as glibc 2.36 reads it (found with res_init(3) on the same files)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.discovery.resolv_conf import parse_resolv_conf


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 10.0.0.2\nnameserver ::1\n", ["10.0.0.2:53", "[::1]:53"]),
        ("nameserver dns.example\nnameserver 10.0.0.2\n", ["10.0.0.2:53"]),
        ("nameserver 010.000.000.002\nnameserver 127.000.000.001\n", ["8.0.0.2:53", "127.0.0.1:53"]),
        ("nameserver 10.2\nnameserver 0x7f.1\nnameserver 10.0.0.2;comment\nnameserver 10.0.0.3 # comment\n",
         ["10.0.0.2:53", "127.0.0.1:53", "10.0.0.3:53"]),
        (" nameserver 10.0.0.2\nnameserver\t10.0.0.3\nNAMESERVER 9.9.9.9\n", ["10.0.0.3:53"]),
        ("nameserver 10.0.0.2:53\nnameserver [::1]\nnameserver 256.1.1.1\nnameserver 1.2.3.4.5\nnameserver 09.1.1.1\n",
         ["127.0.0.1:53"]),
        ("nameserver fe80::1%eth0\n", ["[fe80::1%eth0]:53"]),
        ("nameserver 10.0.0.2\r\n", ["10.0.0.2:53"]),
        ("nameserver\nnameserver \n# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nnameserver 3.3.3.3",
         ["3.3.3.3:53"]),
        ("\ufeffnameserver 10.0.0.2\n", ["127.0.0.1:53"]),
        ("", ["127.0.0.1:53"]),
    ],
)  # fmt: skip
def test_name_servers(text: str, expected: list[str]) -> None:
    """Invalid addresses are skipped; without any address the name server on this machine is used."""
    assert [str(server) for server in parse_resolv_conf(text).nameservers] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search a.example b.example.\n", ("a.example", "b.example")),
        ("domain a.example b.example\n", ("a.example",)),
        ("search a.example\ndomain b.example\n", ("b.example",)),
        ("domain b.example\nsearch a.example c.example\n", ("a.example", "c.example")),
        ("search a..b good.example \xff\xfe.example -x.example " + "y" * 64 + ".example\n", ("good.example",)),
        ("search . a.example a.example\r\n", ("a.example",)),
        ("search .\n", ()),
        ("search\n", ("host.example",)),
        ("", ("host.example",)),
    ],
)
def test_search_domains(text: str, expected: tuple[str, ...]) -> None:
    """The last line counts; invalid names are skipped; without any the domain of this machine is used."""
    assert parse_resolv_conf(text, hostname="machine.host.example").search == expected


@pytest.mark.parametrize("hostname", ["machine", "", "a..b", ".", "x." + "y" * 300, "m.\xfc.example"])
def test_a_hostname_without_a_domain(hostname: str) -> None:
    """No hostname of this machine makes a resolution fail."""
    assert parse_resolv_conf("", hostname=hostname).search in ((), ("b",))


@pytest.mark.parametrize(
    ("text", "ndots", "tcp"),
    [
        ("options ndots:5 timeout:1 rotate\n", 5, False),
        ("options ndots:99\n", 15, False),
        ("options ndots:-1\n", 15, False),
        ("options ndots:99 ndots:x use-vc\noptions ndots:5\n", 5, True),
        ("options ndots:3 ndots:\n", 0, False),
        ("options ndots:3x;use-vc\n", 3, False),
        ("options ndots\n", 1, False),
    ],
)
def test_options(text: str, ndots: int, tcp: bool) -> None:
    """The last ``ndots`` counts, at most 15; ``use-vc`` means TCP."""
    config = parse_resolv_conf(text)
    assert (config.ndots, config.tcp) == (ndots, tcp)


def test_the_environment() -> None:
    """``LOCALDOMAIN`` replaces the search domains of the file, ``RES_OPTIONS`` follows its options."""
    environ = {"LOCALDOMAIN": "l1.example l2.example", "RES_OPTIONS": "ndots:7 use-vc"}
    config = parse_resolv_conf("search a.example\noptions ndots:3\n", hostname="m.host.example", environ=environ)
    assert (config.search, config.ndots, config.tcp) == (("l1.example", "l2.example"), 7, True)
    assert parse_resolv_conf("search a.example\n", hostname="m.host.example", environ={"LOCALDOMAIN": ""}).search == ()


@given(st.text())
def test_any_file_can_be_read(text: str) -> None:
    """The result always has a name server."""
    for line in (text, f"nameserver {text}", f"search {text}", f"options ndots:{text}"):
        assert parse_resolv_conf(line, hostname=text, environ={"LOCALDOMAIN": text, "RES_OPTIONS": text}).nameservers
