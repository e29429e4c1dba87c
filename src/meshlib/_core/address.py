"""Parsing and formatting of addresses such as ``host:50051`` and ``[::1]:50051``.

Two spellings of one IP address must compare equal, or one server would be two hosts of a channel. So every endpoint has
its address in canonical form (RFC 5952).
"""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["HostPort", "canonical_ip", "is_endpoint_address", "is_name", "join", "parse_host_port"]

_DOTTED_QUAD = re.compile(r"\d+(\.\d+){3}")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """A host (name or IP literal without brackets) and an optional port."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else join(self.host, self.port)

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP literal and needs no lookup."""
        return canonical_ip(self.host) is not None


@lru_cache(1024)
def canonical_ip(host: str) -> str | None:
    """Canonical form of an IP literal (RFC 5952), or None if ``host`` is a name. Keeps a zone (``%eth0``)."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def join(host: str, port: int) -> str:
    """Format ``host:port``, with an IPv6 literal in brackets and in canonical form."""
    host = canonical_ip(host) or host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_endpoint_address(address: str) -> bool:
    """Whether a connection can be opened to ``address`` without a lookup: ``IP:port`` or ``unix:path``."""
    if address.startswith("unix:"):
        return len(address) > len("unix:")
    try:
        parsed = parse_host_port(address)
    except ValueError:
        return False
    return parsed.is_ip and parsed.port is not None


def is_name(text: str) -> bool:
    """Whether ``text`` is a valid host or domain name, which a name server can be queried for."""
    try:
        _check_name(text)
    except ValueError:
        return False
    return True


def parse_host_port(text: str) -> HostPort:
    """Parse ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 literal.

    Raises:
        ValueError: invalid text; the message names the error and what is allowed.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} must be [IPv6]:port")
        if ":" not in host or canonical_ip(host) is None:
            raise ValueError(f"{host!r} is not an IPv6 address; only IPv6 addresses are written in brackets")
        return HostPort(host=host, port=_port(text, rest[1:]) if rest else None)
    if text.count(":") > 1:
        if canonical_ip(text) is None:
            raise ValueError(f"{text!r} has more than one colon; an IPv6 address with a port is written [IPv6]:port")
        return HostPort(host=text)
    host, colon, port = text.partition(":")
    if canonical_ip(host) is None:
        _check_name(host)
    return HostPort(host=host, port=_port(text, port) if colon else None)


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"port {port!r} of {text!r} must be a number from 1 to 65535")
    return int(port)


def _check_name(host: str) -> None:
    """Check the limits of RFC 1035 section 2.3.4 early, before a name server rejects the name."""
    if not host:
        raise ValueError("the host name is empty")
    if _DOTTED_QUAD.fullmatch(host):
        raise ValueError(f"{host!r} is not an IPv4 address; its parts are 0 to 255, without leading zeros")
    if not host.isascii():
        raise ValueError(f"host name {host!r} must be ASCII; write the xn-- form of an international name")
    if len(host.removesuffix(".")) > 253:
        raise ValueError(f"host name {host!r} is longer than 253 characters")
    for label in host.removesuffix(".").split("."):
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"host name {host!r} has the label {label!r}; "
                "labels are 1 to 63 letters, digits, '-' and '_', without '-' at either end"
            )
