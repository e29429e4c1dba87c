"""Registry of resolvers by scheme, from ``register_resolver`` or from entry points of installed packages.

Errors name the plug-in and are raised as early as possible: a bad scheme at registration, a failing factory at the
construction of the channel, an invalid answer at resolution.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol, final

from meshlib._core.address import is_endpoint_address
from meshlib._core.discovery.contracts import Resolver
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Endpoint, Resolution, merge_duplicates
from meshlib._core.errors import ConfigError
from meshlib._core.target import BUILT_IN_SCHEMES, NATIVE_SCHEMES, Target

__all__ = ["EntryPoint", "ResolverFactory", "ResolverRegistry", "checked", "checked_resolver", "described"]

ResolverFactory = Callable[[Target], Resolver]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


class EntryPoint(Protocol):
    """The used part of ``importlib.metadata.EntryPoint``."""

    @property
    def name(self) -> str:
        """The scheme."""
        ...

    @property
    def value(self) -> str:
        """``"package.module:factory"``."""
        ...

    def load(self) -> Any:
        """The factory."""
        ...


@final
class ResolverRegistry(Collection[str]):
    """Registry of resolver factories by scheme.

    Args:
        entry_points: those of group ``meshlib.resolvers``; read at the first use of an unregistered scheme.
    """

    def __init__(self, entry_points: Callable[[], Iterable[EntryPoint]]) -> None:
        self._entry_points = entry_points
        self._found: dict[str, list[EntryPoint]] | None = None
        self._factories: dict[str, ResolverFactory] = {}

    def __contains__(self, scheme: object) -> bool:
        return scheme in self._factories or scheme in self._installed()

    def __iter__(self) -> Iterator[str]:
        return iter({*self._factories, *self._installed()})

    def __len__(self) -> int:
        return len({*self._factories, *self._installed()})

    def register(self, scheme: str, factory: ResolverFactory) -> None:
        """Register ``factory`` for targets ``scheme://...``.

        Raises:
            ConfigError: the scheme is malformed, built in, or another factory's; or the factory is not callable.
        """
        named: object = scheme
        if not isinstance(named, str) or not _SCHEME.fullmatch(named):
            raise ConfigError("scheme", scheme, "must be lower case letters, digits, '+', '.' and '-', a letter first")
        if scheme in BUILT_IN_SCHEMES | NATIVE_SCHEMES:
            raise ConfigError("scheme", scheme, "is built in and cannot be registered")
        if not callable(factory):
            raise ConfigError("factory", factory, "must be callable with a Target and return a Resolver")
        if self._factories.setdefault(scheme, factory) is not factory:
            raise ConfigError("scheme", scheme, f"is already registered by {described(self._factories[scheme])}")

    def resolver(self, target: Target) -> Resolver:
        """Create the resolver of ``target`` with the factory of its scheme.

        Raises:
            ConfigError: there is no factory, it failed, or it returned no resolver.
        """
        factory = self._factories.get(target.scheme) or self._loaded(target.scheme)
        try:
            made: object = factory(target)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                "target", target.text, f"the resolver factory {described(factory)} raised {_told(error)}"
            ) from error
        return checked_resolver(f"result of {described(factory)}", made)

    def _installed(self) -> dict[str, list[EntryPoint]]:
        if self._found is None:
            found: dict[str, list[EntryPoint]] = {}
            for entry_point in self._entry_points():
                found.setdefault(entry_point.name, []).append(entry_point)
            self._found = found
        return self._found

    def _loaded(self, scheme: str) -> ResolverFactory:
        entry_points = self._installed().get(scheme, [])
        if len(entry_points) != 1:
            values = ", ".join(point.value for point in entry_points) or "none"
            raise ConfigError(
                "target scheme", scheme, f"must be provided by exactly one installed package, not by {values}"
            )
        entry_point = f"entry point {entry_points[0].value!r}"
        try:
            factory: object = entry_points[0].load()
        except Exception as error:
            raise ConfigError("target scheme", scheme, f"{entry_point} failed to load: {_told(error)}") from error
        if not callable(factory):
            raise ConfigError("target scheme", scheme, f"{entry_point} is not callable")
        # Two threads may load at once; both get the same object from the import system.
        return self._factories.setdefault(scheme, factory)


def checked_resolver(field: str, resolver: object) -> Resolver:
    """Return ``resolver`` if it is one.

    Raises:
        ConfigError: it has no method ``resolve``.
    """
    if isinstance(resolver, type) or not isinstance(resolver, Resolver) or not callable(resolver.resolve):
        raise ConfigError(field, resolver, "must be an object with a method resolve(previous)")
    return resolver


def checked(answer: object, resolver: object) -> Resolution:
    """Validate and normalize the answer of a plug-in: a tuple of endpoints, equal ones merged.

    Raises:
        ResolveError: the answer is not a valid :class:`Resolution`; the message names the plug-in.
    """
    if not isinstance(answer, Resolution):
        raise _nonsense(resolver, f"{answer!r:.200}, not a meshlib.discovery.Resolution")
    ttl: object = answer.ttl
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float) or math.isnan(ttl)):
        raise _nonsense(resolver, f"ttl={ttl!r}, not a number of seconds or None")
    listed: object = answer.endpoints
    if not isinstance(listed, Iterable):
        raise _nonsense(resolver, f"endpoints={listed!r:.200}, not a tuple of Endpoint")
    endpoints = tuple(listed)
    for endpoint in endpoints:
        if not isinstance(endpoint, Endpoint):
            raise _nonsense(resolver, f"{endpoint!r:.200} among the endpoints, not an Endpoint")
        if not is_endpoint_address(endpoint.address):
            raise _nonsense(resolver, f"address {endpoint.address!r}; it must be IP:port or unix:path, not a host name")
    try:
        hash(endpoints)
    except TypeError as error:  # a list among the attributes, say
        raise _nonsense(resolver, f"endpoints that cannot be hashed: {error}") from error
    return Resolution(endpoints=merge_duplicates(endpoints), ttl=ttl if ttl is None else max(0.0, ttl))


def described(plugin: object) -> str:
    """Name a plug-in for messages: ``package.module.Class``."""
    named = plugin if hasattr(plugin, "__qualname__") else type(plugin)
    return f"{getattr(named, '__module__', '?')}.{getattr(named, '__qualname__', '?')}"


def _nonsense(resolver: object, what: str) -> ResolveError:
    return ResolveError(f"resolver {described(resolver)} returned {what}")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
