"""Every form of a target, its authority, and the errors of malformed ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.address import HostPort
from meshlib._core.errors import ConfigError
from meshlib._core.target import BUILT_IN_SCHEMES, NATIVE_SCHEMES, Target, parse_target

NAMES = [
    # text, scheme, host, port, service, nameserver, authority, uri
    ("svc-a", "", "svc-a", None, "_grpc._tcp", None, "svc-a", "dns:///svc-a"),
    ("svc-a.", "", "svc-a.", None, "_grpc._tcp", None, "svc-a.", "dns:///svc-a."),
    ("svc-a:50051", "", "svc-a", 50051, "", None, "svc-a:50051", "dns:///svc-a:50051"),
    ("localhost:50051", "", "localhost", 50051, "", None, "localhost:50051", "dns:///localhost:50051"),
    ("static:50051", "", "static", 50051, "", None, "static:50051", "dns:///static:50051"),
    ("srv:50051", "", "srv", 50051, "", None, "srv:50051", "dns:///srv:50051"),
    ("consul:8500", "", "consul", 8500, "", None, "consul:8500", "dns:///consul:8500"),
    ("10.0.0.7:80", "", "10.0.0.7", 80, "", None, "10.0.0.7:80", "dns:///10.0.0.7:80"),
    ("10.0.0.7", "", "10.0.0.7", None, "", None, "10.0.0.7", "dns:///10.0.0.7"),
    ("[::1]:80", "", "::1", 80, "", None, "[::1]:80", "dns:///[::1]:80"),
    ("::1", "", "::1", None, "", None, "::1", "dns:///::1"),
    ("[fe80::1%eth0]:80", "", "fe80::1%eth0", 80, "", None, "[fe80::1%25eth0]:80", "dns:///[fe80::1%25eth0]:80"),
    ("dns:svc-a:1", "dns", "svc-a", 1, "", None, "svc-a:1", "dns:///svc-a:1"),
    ("dns:///svc-a:1", "dns", "svc-a", 1, "", None, "svc-a:1", "dns:///svc-a:1"),
    ("DNS:///svc-a:1", "dns", "svc-a", 1, "", None, "svc-a:1", "dns:///svc-a:1"),
    ("dns:///svc-a", "dns", "svc-a", None, "", None, "svc-a", "dns:///svc-a"),
    ("dns:///%73vc-a:1", "dns", "svc-a", 1, "", None, "svc-a:1", "dns:///svc-a:1"),
    ("dns:///[fe80::1%25eth0]:80", "dns", "fe80::1%eth0", 80, "", None, "[fe80::1%25eth0]:80",
     "dns:///[fe80::1%25eth0]:80"),
    ("dns://127.0.0.1:5353/svc-a:1", "dns", "svc-a", 1, "", "127.0.0.1:5353", "svc-a:1",
     "dns://127.0.0.1:5353/svc-a:1"),
    ("dns://ns.example.com/svc-a:1", "dns", "svc-a", 1, "", "ns.example.com:53", "svc-a:1",
     "dns://ns.example.com:53/svc-a:1"),
    ("dns://[::1]:53/svc-a:1", "dns", "svc-a", 1, "", "[::1]:53", "svc-a:1", "dns://[::1]:53/svc-a:1"),
    ("srv:///_grpc._tcp.svc-a.example.com", "srv", "svc-a.example.com", None, "_grpc._tcp", None,
     "svc-a.example.com", "srv:///_grpc._tcp.svc-a.example.com"),
    ("srv://127.0.0.1:8600/_svc._grpc.service.consul", "srv", "service.consul", None, "_svc._grpc", "127.0.0.1:8600",
     "service.consul", "srv://127.0.0.1:8600/_svc._grpc.service.consul"),
    ("srv:///svc.service.consul", "srv", "svc.service.consul", None, "", None, "svc.service.consul",
     "srv:///svc.service.consul"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "scheme", "host", "port", "service", "nameserver", "authority", "uri"), NAMES)
def test_a_name_to_look_up(
    text: str,
    scheme: str,
    host: str,
    port: int | None,
    service: str,
    nameserver: str | None,
    authority: str,
    uri: str,
) -> None:
    """Bare names, ``dns:`` and ``srv:``: the query, its name server, and the authority."""
    target = parse_target(text)
    assert (target.scheme, target.host, target.port, target.service) == (scheme, host, port, service)
    assert (target.nameserver, target.authority, target.uri) == (nameserver, authority, uri)
    assert str(target) == target.text == text


@pytest.mark.parametrize(
    ("text", "entries", "authority", "uri"),
    [
        ("static:///h1:1,h2:2", ("h1:1", "h2:2"), "h1:1", "static:///h1:1,h2:2"),
        ("static:h1:1", ("h1:1",), "h1:1", "static:///h1:1"),
        ("static:///[::1]:1", ("[::1]:1",), "[::1]:1", "static:///[::1]:1"),
        ("ipv4:1.2.3.4:80,5.6.7.8:81", ("1.2.3.4:80", "5.6.7.8:81"), "1.2.3.4:80", "ipv4:1.2.3.4:80,5.6.7.8:81"),
        ("ipv4:///1.2.3.4:80", ("1.2.3.4:80",), "1.2.3.4:80", "ipv4:1.2.3.4:80"),
        ("ipv6:[::1]:80", ("[::1]:80",), "[::1]:80", "ipv6:[::1]:80"),
        ("ipv6:%5B::1%5D:80", ("[::1]:80",), "[::1]:80", "ipv6:[::1]:80"),
    ],
)
def test_a_list_of_hosts(text: str, entries: tuple[str, ...], authority: str, uri: str) -> None:
    """``static:``, ``ipv4:`` and ``ipv6:`` list their endpoints."""
    target = parse_target(text)
    assert tuple(map(str, target.entries)) == entries
    assert (target.authority, target.uri) == (authority, uri)


def test_only_a_single_listed_host_is_the_servers_address() -> None:
    """The ``server.address`` of a list would name one host and hide the others."""
    one, two = parse_target("ipv4:1.2.3.4:80"), parse_target("ipv4:1.2.3.4:80,5.6.7.8:80")
    assert (one.host, one.port) == ("1.2.3.4", 80)
    assert (two.host, two.port) == ("", None)
    assert two.entries == (HostPort(host="1.2.3.4", port=80), HostPort(host="5.6.7.8", port=80))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:a.sock", "a.sock"),
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:///run/a.sock", "/run/a.sock"),
        ("unix:/run/%61.sock", "/run/a.sock"),
        ("unix:/run/%C3%BC.sock", "/run/ü.sock"),
        ("unix:/run/a%3Fb%23c%253Fd.sock", "/run/a?b#c%3Fd.sock"),
    ],
)
def test_a_unix_socket(text: str, path: str) -> None:
    """Relative and absolute paths; the authority is localhost."""
    target = parse_target(text)
    assert (target.path, target.authority) == (path, "localhost")
    assert parse_target(target.uri).path == path


@pytest.mark.parametrize("text", ["xds:///svc-a", "xds:svc-a", "unix-abstract:a", "vsock:2:5000", "google-c2p:///svc"])
def test_what_only_grpc_understands(text: str) -> None:
    """The target is passed on as written, and grpc determines its authority."""
    target = parse_target(text)
    assert target.native
    assert (target.text, target.authority) == (text, None)


def test_a_registered_scheme() -> None:
    """A registered scheme counts before ``//``; its path is the name and, decoded, the authority."""
    target = parse_target("consul://dc1/team%2Fsvc-a", schemes=["consul"])
    assert (target.scheme, target.nameserver, target.host) == ("consul", "dc1", "team/svc-a")
    assert (target.authority, target.uri) == ("team/svc-a", "consul://dc1/team%2Fsvc-a")
    assert parse_target("zk:///svc-a", any_scheme=True).scheme == "zk"


def test_a_registered_scheme_may_be_that_of_urls() -> None:
    """A scheme with a registered or given resolver is accepted."""
    assert parse_target("grpc://svc-a:80", schemes=["grpc"]).host == ""
    assert parse_target("http://svc-a:80", any_scheme=True).nameserver == "svc-a:80"


def test_an_unknown_scheme_lists_the_known() -> None:
    """The error lists the known schemes and suggests the nearest."""
    with pytest.raises(ConfigError) as caught:
        parse_target("consl:///svc-a", schemes=["consul"])
    assert "did you mean 'consul'?" in str(caught.value)
    for scheme in BUILT_IN_SCHEMES | NATIVE_SCHEMES:
        assert scheme in str(caught.value)


class Untouchable(list[str]):
    """A collection that must not be read."""

    def __contains__(self, item: object) -> bool:
        raise AssertionError


@pytest.mark.parametrize("text", [case[0] for case in NAMES])
def test_registered_schemes_are_looked_at_only_for_unknown_ones(text: str) -> None:
    """Entry points of installed packages are read only if no built-in scheme matches."""
    assert parse_target(text, schemes=Untouchable()).text == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("a b", "the label 'a b'"),
        ("10.0.0.300:1", "'10.0.0.300' is not an IPv4 address"),
        ("static:///010.0.0.2:1", "without leading zeros"),
        ("dns:///svc-a:1,10.0.0.2:1", "must be a number|more than one colon"),
        ("svc-a:http", "must be a number from 1 to 65535"),
        ("h1:1,h2:2", "write a list of hosts as static:///h1:1,h2:2"),
        ("dns:", "the host name is empty"),
        ("dns://127.0.0.1:53", "the host name is empty"),
        ("dns:///svc-a?x=1", "a target has no query or fragment"),
        ("dns://name server/svc-a", "the label 'name server'"),
        ("srv:///_grpc._tcp", "the SRV name is missing"),
        ("srv:///_grpc._tcp.", "the SRV name is missing"),
        ("srv:///_grpc._tcp.svc-a:80", "has no port"),
        ("srv:///10.0.0.7", "is not an address"),
        ("static:///h1,h2:2", "entry 'h1' needs a port"),
        ("static:///h1:1,", "the host name is empty"),
        ("static://h1:1", "write static:///h1:1"),
        ("ipv4:h1:1", "write host names as static:///"),
        ("ipv4:[::1]:1", "must be an address such as 1.2.3.4:50051"),
        ("ipv4:1.2.3.4", "needs a port"),
        ("ipv6:1.2.3.4:1", r"must be an address such as \[::1\]:50051"),
        ("unix:", "the socket path is missing"),
        ("unix://run/a.sock", "write unix:///run/a.sock"),
        ("unix:/run/a?b.sock", "in a path write %3F and %23"),
        ("unix:/run/a,b.sock", "contains a comma"),
        ("http://svc-a:80", "a target is not a URL; write svc-a:80$"),
        ("http://svc-a", "a target is not a URL; write svc-a$"),
        ("HTTP://svc-a:80/", "write svc-a:80$"),
        (
            "https://svc-a:443/v1?x=1",
            r"write svc-a:443, with credentials=grpc\.ssl_channel_credentials\(\); a target has no",
        ),
        ("grpc://user:secret@svc-a:80", "write svc-a:80$"),
        ("grpcs://[::1]:443", r"write \[::1\]:443, with credentials"),
        ("tcp://", "write svc-a:50051$"),
    ],
)
def test_a_malformed_target(text: str, complaint: str) -> None:
    """``meshlib.channel`` rejects it at construction, with the value and the allowed forms."""
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_target(text)
    assert caught.value.value == text
    assert parse_target(text, lenient=True).native


def test_no_text_at_all() -> None:
    """A target that is not a string is a ConfigError like any other."""
    with pytest.raises(ConfigError, match="must be a string such as"):
        parse_target(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "secure", "lenient", "port", "guessed"),
    [
        ("svc-a", False, False, 80, True),
        ("svc-a", True, False, 443, True),
        ("svc-a", False, True, 443, True),
        ("dns:///svc-a", True, False, 443, True),
        ("svc-a:1", True, False, 443, False),
        ("srv:///_grpc._tcp.svc-a", True, False, 443, False),
    ],
)
def test_the_port_of_a_name_that_has_none(text: str, secure: bool, lenient: bool, port: int, guessed: bool) -> None:
    """443 with credentials, 80 without; in the replacements of grpc's factories 443 in both cases, as in C-core."""
    target = parse_target(text, secure=secure, lenient=lenient)
    assert (target.default_port, target.port_guessed) == (port, guessed)


@pytest.mark.parametrize(
    "text", ["dns://127.0.0.1/svc-a:1", "dns://localhost:53/svc-a:1", "foo://svc-a", "svc-a:", ":::", " svc-a:1"]
)
def test_what_grpc_answers_itself(text: str) -> None:
    """In the replacements of grpc's factories any target with special treatment in grpc goes to grpc as written."""
    assert parse_target(text, lenient=True) == Target(text=text, scheme="", uri=text, authority=None, native=True)


@given(st.text())
def test_grpcs_factories_accept_everything(text: str) -> None:
    """A lenient parse never raises, and keeps the text."""
    assert parse_target(text, lenient=True).text == text


@given(
    st.one_of(st.text(), st.sampled_from(sorted(BUILT_IN_SCHEMES)).flatmap(lambda s: st.text().map(f"{s}:".__add__)))
)
def test_a_target_is_parsed_or_refused(text: str) -> None:
    """Any text parses or raises ConfigError; the canonical form has the same meaning."""
    try:
        target = parse_target(text)
    except ConfigError:
        return
    again = parse_target(target.uri)
    assert (again.host, again.port, again.entries, again.path) == (
        target.host,
        target.port,
        target.entries,
        target.path,
    )


@pytest.mark.parametrize(
    ("text", "is_ip"),
    [("10.0.0.7:50051", True), ("[::1]:50051", True), ("dns:///10.0.0.7", True), ("svc-a", False), ("svc-7:1", False)],
)
def test_a_target_that_needs_no_name_server(text: str, is_ip: bool) -> None:
    """Its host is an IP literal."""
    assert parse_target(text).is_ip is is_ip
