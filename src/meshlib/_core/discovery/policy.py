"""How names are looked up: the knobs of DNS."""

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
    """How the names of a target are looked up.

    Args:
        family: which addresses of a name count (Envoy ``dns_lookup_family``): ``"auto"``, its A records if it has any,
            else its AAAA records; ``"v4"``; ``"v6"``; ``"all"``. One of each, for the target of an
            SRV record, an entry of a list or ``localhost``, are two addresses of one host (``"auto"`` and ``"all"``).
        nameservers: the servers to ask, such as ``"10.0.0.2"`` or ``"127.0.0.1:8600"``; the first that answers counts.
            Empty: those of /etc/resolv.conf. A target that names a server, ``dns://server/name``, asks that one.
        query_timeout: seconds a name server has to answer one question before the next server is asked.
        timeout: seconds for all the questions of one resolution.
        min_ttl: seconds; what DNS calls fresh for less is fresh for this long, and no name is asked for more often.
        max_ttl: seconds; what DNS calls fresh for longer is asked for again after this long.
        allow_empty: whether an empty answer, or that the name does not exist, takes all endpoints away; else the last
            good ones stay.
    """

    family: Family = "auto"
    nameservers: tuple[str, ...] = ()
    query_timeout: float = 1.0
    timeout: float = 5.0
    min_ttl: float = 1.0
    max_ttl: float = 30.0
    allow_empty: bool = False

    if TYPE_CHECKING:  # what is accepted is wider than what the field holds

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
