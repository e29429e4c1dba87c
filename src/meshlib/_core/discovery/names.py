"""The hosts file and search domains, which precede a query to a name server.

A stub resolver must handle them itself; each follows the manual page that administrators know.
"""

from collections.abc import Mapping, Sequence

from meshlib._core.address import canonical_ip

__all__ = ["candidates", "is_localhost", "listed", "parse_hosts", "still_to_try"]

LOOPBACK = ("127.0.0.1", "::1")
LONGEST = 253


def candidates(name: str, search: Sequence[str], ndots: int) -> tuple[str, ...]:
    """Return the absolute names to try, in order (resolv.conf(5), ``search`` and ``ndots``).

    A name that ends with a dot is absolute already. One with at least ``ndots`` dots is tried as is first, any other
    last.
    """
    if name.endswith("."):
        return (name,)
    found = [f"{name}.{domain}." for domain in search]
    found.insert(0 if name.count(".") >= ndots else len(found), f"{name}.")
    return tuple(candidate for candidate in found if len(candidate) <= LONGEST + 1)


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return addresses by lower-case name (hosts(5)): all of a name's lines count, invalid ones do not."""
    found: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        ip = canonical_ip(address)
        if ip is not None:
            for name in names:
                found.setdefault(name.lower().removesuffix("."), {})[ip] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


def is_localhost(name: str) -> bool:
    """Whether ``name`` always means this machine (RFC 6761 section 6.3)."""
    return name.lower().removesuffix(".").rpartition(".")[2] == "localhost"


def listed(hosts: Mapping[str, tuple[str, ...]], name: str) -> tuple[str, ...]:
    """Return the addresses of ``name`` without a name server: the hosts file's; for localhost, both loopbacks.

    Many hosts files have one line for localhost, ``127.0.0.1``, but servers may listen on ``::1``. That of macOS also
    has ``fe80::1%lo0``.
    """
    found = hosts.get(name.lower().removesuffix("."), ())
    return LOOPBACK if is_localhost(name) and (not found or set(found) & set(LOOPBACK)) else found


def still_to_try(name: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``names``, the remaining candidates, to try after one without an answer.

    The name as written, if it has a dot. Not a further search domain: its service of that name is another one, and one
    lost answer would send it the traffic. glibc continues after SERVFAIL.
    """
    return tuple(each for each in names if each == f"{name}." and "." in name)
