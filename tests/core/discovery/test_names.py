"""Search domains and the hosts file: the steps before a query."""

import pytest

from meshlib._core.discovery.names import candidates, is_localhost, listed, parse_hosts, still_to_try

SEARCH = ("ns.example", "example")


@pytest.mark.parametrize(
    ("name", "ndots", "expected"),
    [
        ("svc-a", 1, ["svc-a.ns.example.", "svc-a.example.", "svc-a."]),
        ("svc-a.x", 1, ["svc-a.x.", "svc-a.x.ns.example.", "svc-a.x.example."]),
        ("svc-a.x", 5, ["svc-a.x.ns.example.", "svc-a.x.example.", "svc-a.x."]),
        ("svc-a", 0, ["svc-a.", "svc-a.ns.example.", "svc-a.example."]),
        ("svc-a.", 1, ["svc-a."]),
        ("svc-a.x.", 5, ["svc-a.x."]),
    ],
)
def test_the_names_to_try(name: str, ndots: int, expected: list[str]) -> None:
    """As in resolv.conf(5): with ndots dots the name as written comes first, else last; with a final dot alone."""
    assert list(candidates(name, SEARCH, ndots)) == expected


def test_a_name_that_becomes_too_long_is_not_tried() -> None:
    """A name has at most 253 characters, including its domain."""
    name = ".".join(["a" * 61] * 4)
    assert candidates(name, SEARCH, 1) == (f"{name}.",)


def test_a_hosts_file() -> None:
    """All lines of a name count, in any letter case; comments and invalid lines do not."""
    text = """
        127.0.0.1   localhost web   # three words
        ::1         localhost ip6-localhost
        10.0.0.7    Web.Example.    web
        10.0.0.7    web
        # 10.0.0.8  web
        not-an-ip   web
        10.0.0.9
    """
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1", "::1"),
        "web": ("127.0.0.1", "10.0.0.7"),
        "ip6-localhost": ("::1",),
        "web.example": ("10.0.0.7",),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [("localhost", True), ("LocalHost.", True), ("a.localhost", True), ("localhost.example", False), ("svc-a", False)],
)
def test_localhost(name: str, expected: bool) -> None:
    """RFC 6761: localhost and its subdomains never leave this machine."""
    assert is_localhost(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost", ("127.0.0.1", "::1")),
        ("db.localhost", ("127.0.0.1", "::1")),
        ("mac.localhost", ("127.0.0.1", "::1")),
        ("pinned.localhost", ("127.0.0.9",)),
        ("Web.", ("10.0.0.7",)),
        ("none", ()),
    ],
)
def test_what_needs_no_name_server(name: str, expected: tuple[str, ...]) -> None:
    """The hosts file; and for localhost both loopbacks, even if the file has only one of them."""
    hosts = {
        "localhost": ("127.0.0.1",),
        "mac.localhost": ("127.0.0.1", "::1", "fe80::1%lo0"),
        "web": ("10.0.0.7",),
        "pinned.localhost": ("127.0.0.9",),
    }
    assert listed(hosts, name) == expected


@pytest.mark.parametrize(
    ("name", "ndots", "expected"),
    [("svc-a", 1, ()), ("svc-a.x", 5, ("svc-a.x.",)), ("svc-a.x", 1, ())],
)
def test_what_is_tried_after_a_name_that_no_server_answered_for(
    name: str, ndots: int, expected: tuple[str, ...]
) -> None:
    """Only the name as written, and only if it has a dot."""
    assert still_to_try(name, candidates(name, SEARCH, ndots)[1:]) == expected
