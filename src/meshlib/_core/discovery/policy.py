"""DNS configuration."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from meshlib._core.address import join, parse_host_port
from meshlib._core.errors import ConfigError, unknown_name

__all__ = ["DnsPolicy", "Family"]

Family = Literal["auto", "v4", "v6", "all"]

_PORT: Final = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsPolicy:
    """DNS configuration: name servers, address family, timeouts and refresh.

    Args:
        family: address family (Envoy ``dns_lookup_family``): ``"auto"``, A records if there are any, else AAAA;
            ``"v4"``; ``"v6"``; ``"all"``. An SRV target, a list entry or ``localhost`` with one address of each family
            is one host with two addresses (``"auto"`` and ``"all"``).
        nameservers: name servers, such as ``"10.0.0.2"`` or ``"127.0.0.1:8600"``; the first answer is used. Empty:
            those of /etc/resolv.conf. A target with a name server, ``dns://server/name``, overrides them.
        query_timeout: seconds for one query to one name server; then the next server is queried.
        timeout: seconds for all queries of one resolution.
        min_ttl: seconds; a shorter TTL is raised to it, and no name is resolved more often.
        max_ttl: seconds; a longer TTL is lowered to it.
        allow_empty: whether an empty answer, or NXDOMAIN, removes all endpoints. False: the last good endpoints stay.
    """

    family: Family = "auto"
    nameservers: tuple[str, ...] = ()
    query_timeout: float = 1.0
    timeout: float = 5.0
    min_ttl: float = 1.0
    max_ttl: float = 30.0
    allow_empty: bool = False

    if TYPE_CHECKING:  # it accepts more than the field holds

        def __init__(
            self,
            *,
            family: Family = ...,
            nameservers: Iterable[str] = ...,
            query_timeout: float = ...,
            timeout: float = ...,
            min_ttl: float = ...,
            max_ttl: float = ...,
            allow_empty: bool = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise unknown_name("family", self.family, get_args(Family))
        object.__setattr__(self, "nameservers", _servers(self.nameservers))
        for name in ("query_timeout", "timeout", "min_ttl", "max_ttl"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(name, value, "must be a number of seconds above 0")
        if self.max_ttl < self.min_ttl:
            raise ConfigError("max_ttl", self.max_ttl, f"must not be below min_ttl={self.min_ttl!r}")
        if not isinstance(self.allow_empty, bool):
            raise ConfigError("allow_empty", self.allow_empty, "must be True or False")


def _servers(given: object) -> tuple[str, ...]:
    allowed = 'must be a list of addresses such as ["10.0.0.2", "127.0.0.1:8600"]'
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError("nameservers", given, allowed)
    servers = []
    for server in given:
        try:
            parsed = parse_host_port(server)
        except (TypeError, AttributeError, ValueError) as error:
            raise ConfigError("nameservers", server, f"{allowed}; {error}") from None
        servers.append(join(parsed.host, parsed.port or _PORT))
    return tuple(servers)
