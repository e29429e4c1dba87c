"""The resolver configuration of the machine: /etc/resolv.conf, ``LOCALDOMAIN`` and ``RES_OPTIONS`` (resolv.conf(5)).

The file is read as by glibc. Lines and words that glibc skips are skipped, so no file can break name resolution.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from meshlib._core.address import HostPort, canonical_ip, is_name

__all__ = ["DnsConfig", "parse_resolv_conf"]

PORT: Final = 53
MAX_NDOTS: Final = 15
_KEYWORD = re.compile(r"(nameserver|domain|search|options)[ \t]+(.*)")
_NUMBER = re.compile(r"\s*([+-]?\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """The name servers of the machine, and the completion of relative names.

    Args:
        nameservers: in the order of queries.
        search: domains, without a final dot.
        ndots: a name with at least this many dots is tried as written before the search domains, any other after them.
        tcp: query over TCP only (option ``use-vc``).
    """

    nameservers: tuple[HostPort, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1
    tcp: bool = False


def parse_resolv_conf(text: str, *, hostname: str = "", environ: Mapping[str, str] | None = None) -> DnsConfig:
    """Parse the configuration in ``text``.

    Without a name server, the one on this machine is used. Without ``search`` and ``domain``, the domain of
    ``hostname`` is searched.

    Args:
        text: of the file; empty if there is none.
        hostname: of the machine.
        environ: ``LOCALDOMAIN`` replaces the search domains, ``RES_OPTIONS`` follows the options of the file.
    """
    environ = environ or {}
    nameservers: list[HostPort] = []
    search = (hostname.partition(".")[2],)
    options: list[str] = []
    for line in text.split("\n"):
        match = _KEYWORD.fullmatch(line.rstrip("\r"))
        words = match[2].split() if match else []
        if match is None or not words:
            continue
        if match[1] == "nameserver":
            ip = _ip(words[0])
            nameservers += [] if ip is None else [HostPort(host=ip, port=PORT)]
        elif match[1] == "options":
            options += words
        else:
            search = tuple(words if match[1] == "search" else words[:1])
    local = environ.get("LOCALDOMAIN")
    options += environ.get("RES_OPTIONS", "").split()
    return DnsConfig(
        nameservers=tuple(nameservers) or (HostPort(host="127.0.0.1", port=PORT),),
        search=_domains(search if local is None else local.split()),
        ndots=_ndots(options),
        tcp=any(option.startswith("use-vc") for option in options),
    )


def _domains(words: Iterable[str]) -> tuple[str, ...]:
    """Return the valid domains; the root adds nothing."""
    return tuple(dict.fromkeys(domain for word in words if is_name(domain := word.removesuffix("."))))


def _ndots(options: Iterable[str]) -> int:
    """Return the last ``ndots:n``. As in glibc, a non-number is 0, and 15 the most."""
    ndots = 1
    for option in options:
        if option.startswith("ndots:"):
            number = _NUMBER.match(option.removeprefix("ndots:"))
            ndots = int(number[1]) if number else 0
    return ndots if 0 <= ndots <= MAX_NDOTS else MAX_NDOTS


def _ip(word: str) -> str | None:
    """Parse an address as inet_aton(3) and inet_pton(3) do; None if it is a host name, for instance."""
    if ":" in word:
        return canonical_ip(word)
    parts = word.split(".")
    numbers = [_c_number(part) for part in parts]
    if len(parts) > 4 or None in numbers:
        return None
    *heads, tail = [number for number in numbers if number is not None]
    if any(head > 255 for head in heads) or tail >= 256 ** (5 - len(parts)):
        return None
    value = tail + sum(head << (24 - 8 * n) for n, head in enumerate(heads))
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


def _c_number(text: str) -> int | None:
    """Parse decimal, octal after a 0, hexadecimal after 0x, as in C."""
    for pattern, base in (("0[xX][0-9a-fA-F]+", 16), ("0[0-7]*", 8), ("[1-9][0-9]*", 10)):
        if re.fullmatch(pattern, text):
            return int(text, base)
    return None
