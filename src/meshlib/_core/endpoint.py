"""Endpoints and resolutions: values that a resolver returns, equal by content."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meshlib._core.address import is_endpoint_address, join
from meshlib._core.errors import ConfigError

__all__ = ["Endpoint", "Resolution", "endpoint", "merge_duplicates"]

MAX_WEIGHT = 2**32 - 1
MAX_PRIORITY = 2**16 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One instance of a service.

    Args:
        address: ``"10.0.0.7:50051"``, ``"[::1]:50051"`` or ``"unix:/run/a.sock"``; never a host name.
        weight: share of the traffic within its priority, 1 to 2**32 - 1 (Envoy ``load_balancing_weight``).
        priority: 0 is tried first, up to 65535 (RFC 2782).
        locality: free text, for example a zone.
        authority: the ``:authority`` and TLS name for this endpoint; None: those of the target.
        attributes: pairs of key and value with further facts from the resolver.
        alternatives: further addresses of the same instance, ``IP:port``, in the order in which they are tried. The
            first one that connects is used (Happy Eyeballs, gRFC A61).
    """

    address: str
    weight: int = 1
    priority: int = 0
    locality: str = ""
    authority: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    alternatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.address or not isinstance(self.address, str):
            raise ConfigError(
                "address", self.address, 'must be a string such as "10.0.0.7:50051" or "unix:/run/a.sock"'
            )
        given: object = self.alternatives
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigError("alternatives", given, 'must be addresses such as ("[fd00::7]:50051",)')
        object.__setattr__(self, "alternatives", tuple(given))
        for address in self.alternatives:
            if not isinstance(address, str) or not is_endpoint_address(address) or address.startswith("unix:"):
                raise ConfigError("alternatives", address, 'must be IP:port, such as "[fd00::7]:50051"')
        if self.alternatives and self.address.startswith("unix:"):
            raise ConfigError("alternatives", self.alternatives, "cannot be combined with a unix socket path")
        _whole("weight", self.weight, 1, MAX_WEIGHT)
        _whole("priority", self.priority, 0, MAX_PRIORITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Answer of a resolver.

    Args:
        endpoints: all current instances, in any order.
        ttl: seconds until the next resolution; None: only after a failure or ``resolve_now()``.
    """

    endpoints: tuple[Endpoint, ...]
    ttl: float | None = None

    if TYPE_CHECKING:  # the argument accepts more types than the field holds

        def __init__(self, *, endpoints: Iterable[Endpoint], ttl: float | None = ...) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.endpoints, Iterable):  # else the caller of the resolver raises, and names it
            object.__setattr__(self, "endpoints", tuple(self.endpoints))


def endpoint(ips: Sequence[str], port: int, *, authority: str | None = None) -> Endpoint:
    """Create the endpoint of a host with one port, at its first address; the others are alternatives."""
    address, *alternatives = (join(ip, port) for ip in ips)
    return Endpoint(address=address, alternatives=tuple(alternatives), authority=authority)


def merge_duplicates(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Merge endpoints with equal address, authority and priority, adding their weights; keeps the order."""
    by_key: dict[tuple[str, str | None, int], Endpoint] = {}
    for endpoint in endpoints:
        key = (endpoint.address, endpoint.authority, endpoint.priority)
        seen = by_key.get(key)
        by_key[key] = endpoint if seen is None else replace(seen, weight=min(seen.weight + endpoint.weight, MAX_WEIGHT))
    return tuple(by_key.values())


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(name, value, f"must be an integer from {low} to {high}")
