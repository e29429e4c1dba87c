"""Parsing of targets: the names in the argument of ``meshlib.channel``, their name server, and the authority.

The grammar is gRPC's own (`naming.md` of the gRPC project) with three additions: a bare name is a service, ``srv:``
names a set of SRV records and ``static:`` lists hosts. A target is parsed once, at construction.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from meshlib._core.address import HostPort, canonical_ip, join, parse_host_port
from meshlib._core.errors import ConfigError, unknown_name

__all__ = ["BUILT_IN_SCHEMES", "NATIVE_SCHEMES", "Target", "parse_target"]

BUILT_IN_SCHEMES = frozenset({"dns", "srv", "static", "ipv4", "ipv6", "unix"})
NATIVE_SCHEMES = frozenset({"xds", "unix-abstract", "vsock", "google-c2p"})
"""Schemes that only gRPC's C-core can parse: the text is passed unchanged to one grpc channel."""

URL_SCHEMES = frozenset({"http", "https", "grpc", "grpcs", "h2", "h2c", "tcp", "ssl", "tls"})
"""Schemes of server URLs; none is a scheme of gRPC."""

DEFAULT_SERVICE = "_grpc._tcp"
PORT_SECURE, PORT_PLAIN, PORT_DNS = 443, 80, 53

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_ESCAPE = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_SERVICE = re.compile(r"(_[^.]+\._[^.]+)\.(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Parsed target: the argument of a factory registered with ``register_resolver``.

    Args:
        text: as the application wrote it.
        scheme: ``""`` for a bare name, else lower case without the colon.
        uri: canonical form with a scheme, for telemetry (gRFC A66 ``grpc.target``).
        authority: the ``:authority`` and TLS name of endpoints that have none of their own; None: grpc sets it.
        host: the name to resolve, without port, brackets and ``_service._proto.``; the path for a registered scheme;
            empty if there is none or more than one.
        port: as written; None if the target has none.
        default_port: port of a name without one: 443 with credentials, 80 without.
        service: the SRV prefix, ``"_grpc._tcp"``; empty if no SRV records are queried.
        nameserver: the part between ``//`` and ``/``: the name server, as ``host:port``, for ``dns`` and ``srv``.
        entries: the hosts in the target itself (``static``, ``ipv4``, ``ipv6``).
        path: the path of a ``unix`` socket.
        native: only C-core can parse it, or it is invalid and ``lenient`` was set: one grpc channel gets ``text``.
    """

    text: str
    scheme: str
    uri: str
    authority: str | None
    host: str = ""
    port: int | None = None
    default_port: int = PORT_PLAIN
    service: str = ""
    nameserver: str | None = None
    entries: tuple[HostPort, ...] = ()
    path: str = ""
    native: bool = False

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP literal."""
        return canonical_ip(self.host) is not None

    @property
    def port_guessed(self) -> bool:
        """Whether endpoints from A and AAAA records get ``default_port``, because the target has no port."""
        return self.port is None and self.scheme in ("", "dns")

    def __str__(self) -> str:
        return self.text


def parse_target(
    text: str,
    *,
    secure: bool = False,
    lenient: bool = False,
    any_scheme: bool = False,
    schemes: Collection[str] = (),
) -> Target:
    """Parse a target.

    Args:
        text: as the application wrote it.
        secure: whether the channel has credentials, which determines the default port.
        lenient: set by the replacements of grpc's own factories. Text that cannot be parsed becomes a ``native``
            target, so that grpc reports the error at the call. The default port is 443, as in grpc, with and without
            credentials.
        any_scheme: accept any scheme, because the application passed its own resolver.
        schemes: registered schemes; used only for a scheme that is not built in.

    Raises:
        ConfigError: the target is malformed or its scheme is unknown; never with ``lenient``.
    """
    if not isinstance(text, str):
        raise ConfigError("target", text, 'must be a string such as "svc-a" or "dns:///svc-a:50051"')
    try:
        target = _parse(text, PORT_SECURE if secure or lenient else PORT_PLAIN, lenient, any_scheme, schemes)
    except ConfigError:
        if not lenient:
            raise
        return _native(text)
    except ValueError as error:
        if not lenient:
            raise ConfigError("target", text, str(error)) from None
        return _native(text)
    return target


def _native(text: str) -> Target:
    return Target(text=text, scheme="", uri=text, authority=None, native=True)


def _parse(text: str, default_port: int, lenient: bool, any_scheme: bool, schemes: Collection[str]) -> Target:
    scheme, rest = _split_scheme(text)
    if not scheme:
        return _name(text, default_port)
    if scheme in NATIVE_SCHEMES:
        return Target(text=text, scheme=scheme, uri=text, authority=None, native=True)
    if scheme not in BUILT_IN_SCHEMES:
        if not any_scheme and scheme not in schemes:
            if scheme in URL_SCHEMES:
                raise ValueError(_url_hint(scheme, rest))
            raise unknown_name("target scheme", scheme, {*BUILT_IN_SCHEMES, *NATIVE_SCHEMES, *schemes})
        server, path = _split_authority(rest)
        name = _decoded(path)
        return Target(text=text, scheme=scheme, uri=text, authority=name, host=name, nameserver=server or None)
    if scheme == "unix":
        return _unix(text, rest)
    server, path = _split_authority(rest)
    if "?" in path or "#" in path:
        raise ValueError("a target has no query or fragment")
    path = _decoded(path)
    if scheme in ("dns", "srv"):
        nameserver = _nameserver(_decoded(server), strict=lenient) if server else None
        return (_dns if scheme == "dns" else _srv)(text, path, nameserver, default_port)
    if server:
        raise ValueError(f"no name is allowed between // and /; write {scheme}:///{server}")
    return _listed(text, scheme, path)


def _split_scheme(text: str) -> tuple[str, str]:
    """Split off a scheme: text before ``//``, or a built-in or grpc scheme. ``localhost:50051`` has no scheme. Neither
    have ``static:50051`` and ``srv:50051``: they would be invalid targets, but may be Docker Compose services."""
    match = _SCHEME.fullmatch(text)
    if match is None:
        return "", text
    scheme, rest = match[1].lower(), match[2]
    if rest.startswith("//"):
        return scheme, rest
    if scheme in ("srv", "static") and rest.isdigit():
        return "", text
    return (scheme, rest) if scheme in BUILT_IN_SCHEMES | NATIVE_SCHEMES else ("", text)


def _url_hint(scheme: str, rest: str) -> str:
    """Suggest a target in place of a URL."""
    place = rest.removeprefix("//")
    name = re.split("[/?#]", place)[0].rpartition("@")[2]
    try:
        parse_host_port(name)
    except ValueError:
        name = "svc-a:50051"
    secure = scheme in ("https", "grpcs", "ssl", "tls")
    more = ", with credentials=grpc.ssl_channel_credentials()" if secure else ""
    path = "; a target has no path: the method names it" if place.rstrip("/") != re.split("[/?#]", place)[0] else ""
    return f"a target is not a URL; write {name}{more}{path}"


def _split_authority(rest: str) -> tuple[str, str]:
    """``//server/path`` or ``path``, which may follow the colon at once or after one slash."""
    if not rest.startswith("//"):
        return "", rest.removeprefix("/")
    server, _, path = rest[2:].partition("/")
    return server, path


def _name(text: str, default_port: int) -> Target:
    if not text:
        raise ValueError('is empty; pass a service name such as "svc-a"')
    if "," in text:
        raise ValueError(f"contains a comma; write a list of hosts as static:///{text}")
    name = parse_host_port(text)
    return Target(
        text=text,
        scheme="",
        uri=f"dns:///{_encoded(text)}",
        authority=_encoded(text),
        host=name.host,
        port=name.port,
        default_port=default_port,
        service=DEFAULT_SERVICE if name.port is None and not name.is_ip else "",
    )


def _dns(text: str, path: str, nameserver: str | None, default_port: int) -> Target:
    name = parse_host_port(path)
    return Target(
        text=text,
        scheme="dns",
        uri=f"dns://{nameserver or ''}/{_encoded(path)}",
        authority=_encoded(path),
        host=name.host,
        port=name.port,
        default_port=default_port,
        nameserver=nameserver,
    )


def _srv(text: str, path: str, nameserver: str | None, default_port: int) -> Target:
    match = _SERVICE.fullmatch(path)
    service, host = (match[1], match[2]) if match else ("", path)
    labels = host.removesuffix(".").split(".")
    if len(labels) <= 2 and all(label.startswith("_") for label in labels):
        raise ValueError("the SRV name is missing; write srv:///_grpc._tcp.svc-a.example.com")
    name = parse_host_port(host)
    if name.port is not None or name.is_ip:
        raise ValueError("an SRV name is not an address and has no port; write dns:/// for an address or a port")
    return Target(
        text=text,
        scheme="srv",
        uri=f"srv://{nameserver or ''}/{_encoded(path)}",
        authority=host,
        host=host,
        default_port=default_port,
        service=service,
        nameserver=nameserver,
    )


def _listed(text: str, scheme: str, path: str) -> Target:
    entries = tuple(parse_host_port(entry) for entry in path.split(","))
    for entry in entries:
        if entry.port is None:
            raise ValueError(f"entry {str(entry)!r} needs a port")
        if scheme != "static" and (not entry.is_ip or (":" in entry.host) != (scheme == "ipv6")):
            wanted = "1.2.3.4:50051" if scheme == "ipv4" else "[::1]:50051"
            raise ValueError(
                f"entry {str(entry)!r} must be an address such as {wanted}; write host names as static:///"
            )
    slashes = "///" if scheme == "static" else ""
    only = entries[0] if len(entries) == 1 else HostPort(host="")
    return Target(
        text=text,
        scheme=scheme,
        uri=f"{scheme}:{slashes}{_encoded(','.join(map(str, entries)))}",
        authority=_encoded(str(entries[0])),
        host=only.host,
        port=only.port,
        entries=entries,
    )


def _unix(text: str, rest: str) -> Target:
    """``unix:relative``, ``unix:/absolute`` and ``unix:///absolute``."""
    if rest.startswith("//") and not rest.startswith("///"):
        raise ValueError(f"no name is allowed between // and /; write unix:///{rest[2:]}")
    if "?" in rest or "#" in rest:
        raise ValueError("a target has no query or fragment; in a path write %3F and %23")
    path = _decoded(rest.removeprefix("//"))
    if not path:
        raise ValueError("the socket path is missing; write unix:///run/svc-a.sock")
    if "," in path:
        raise ValueError("the socket path contains a comma, which grpc reads as a list of paths; rename the socket")
    uri = f"unix:{path.replace('%', '%25').replace('?', '%3F').replace('#', '%23')}"
    return Target(text=text, scheme="unix", uri=uri, authority="localhost", path=path)


def _nameserver(server: str, *, strict: bool) -> str:
    """Name server with its port. ``strict`` is grpc's rule: an IP address and a port."""
    parsed = parse_host_port(server)
    if strict and (parsed.port is None or not parsed.is_ip):
        raise ValueError(f"name server {server!r} must be IP:port")
    return join(parsed.host, parsed.port or PORT_DNS)


def _decoded(text: str) -> str:
    """RFC 3986 percent-decoding; invalid escapes are kept."""
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[0].replace("%", "")).decode(errors="replace"), text)


def _encoded(path: str) -> str:
    """Escape like grpc in an authority: the ``%`` before an IPv6 zone is not an escape, so it is escaped."""
    return path.replace("%", "%25")
