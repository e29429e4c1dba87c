"""What stands between a host name and a question to a name server: the hosts file, search domains, address families.

A stub resolver has to do these things itself; each follows the manual page that administrators go by.
"""

from collections.abc import Iterable, Sequence

from meshlib._core.address import canonical_ip
from meshlib._core.discovery.policy import Family

__all__ = ["candidates", "is_localhost", "of_family", "parse_hosts"]

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


def of_family(addresses: Iterable[str], family: Family) -> tuple[str, ...]:
    """The addresses that count; ``auto`` takes IPv4 if there is any."""
    addresses = tuple(addresses)
    v4 = tuple(address for address in addresses if ":" not in address)
    v6 = tuple(address for address in addresses if ":" in address)
    return {"v4": v4, "v6": v6, "auto": v4 or v6, "all": addresses}[family]
