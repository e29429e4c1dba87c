"""What precedes a question to a name server: the hosts file and search domains.

A stub resolver has to do these things itself; each follows the manual page that administrators know.
"""

from collections.abc import Mapping, Sequence

from meshlib._core.address import canonical_ip

__all__ = ["candidates", "is_localhost", "listed", "parse_hosts", "still_to_try"]

LOOPBACK = ("127.0.0.1", "::1")
LONGEST = 253


def candidates(name: str, search: Sequence[str], ndots: int) -> tuple[str, ...]:
    """The absolute names to try, in order (resolv.conf(5), ``search`` and ``ndots``).

    A name that ends with a dot is absolute already. One with at least ``ndots`` dots is tried as it stands first, any
    other last.
    """
    if name.endswith("."):
        return (name,)
    found = [f"{name}.{domain}." for domain in search]
    found.insert(0 if name.count(".") >= ndots else len(found), f"{name}.")
    return tuple(candidate for candidate in found if len(candidate) <= LONGEST + 1)


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Addresses by lower-case name (hosts(5)): all of a name's lines count, lines that make no sense do not."""
    found: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        ip = canonical_ip(address)
        if ip is not None:
            for name in names:
                found.setdefault(name.lower().removesuffix("."), {})[ip] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


def is_localhost(name: str) -> bool:
    """Whether ``name`` means this machine wherever it is asked for (RFC 6761 section 6.3)."""
    return name.lower().removesuffix(".").rpartition(".")[2] == "localhost"


def listed(hosts: Mapping[str, tuple[str, ...]], name: str) -> tuple[str, ...]:
    """The addresses of ``name`` that need no name server: those of the hosts file, and of localhost both loopbacks.

    Many hosts files have one line for localhost, ``127.0.0.1``, and servers may listen on ``::1``. That of macOS has
    ``fe80::1%lo0`` besides.
    """
    found = hosts.get(name.lower().removesuffix("."), ())
    return LOOPBACK if is_localhost(name) and (not found or set(found) & set(LOOPBACK)) else found


def still_to_try(name: str, names: Sequence[str]) -> tuple[str, ...]:
    """Those of ``names``, the candidates that are left, that are tried after one that no server answered for.

    The name as written, if it has a dot. Not a further search domain: its service of that name is another one, and one
    lost answer would send it the traffic. glibc goes on after SERVFAIL.
    """
    return tuple(each for each in names if each == f"{name}." and "." in name)
