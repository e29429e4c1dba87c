"""Balancers by name: built in, registered by ``register_balancer``, or from entry points of installed packages."""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, cast, final

from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.pick_first import PickFirst
from meshlib._core.balancing.random import Random
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.discovery.registry import EntryPoint, described
from meshlib._core.errors import ConfigError, unknown_name

__all__ = ["BUILT_IN", "BalancerFactory", "BalancerRegistry"]

BalancerFactory = Callable[[], Balancer]

BUILT_IN: Final[Mapping[str, BalancerFactory]] = MappingProxyType(
    {"least_request": LeastRequest, "pick_first": PickFirst, "random": Random, "round_robin": RoundRobin}
)

_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


@final
class BalancerRegistry:
    """Registry of balancer factories by name.

    Args:
        entry_points: those of group ``meshlib.balancers``; read at the first use of an unregistered name.
    """

    def __init__(self, entry_points: Callable[[], Iterable[EntryPoint]]) -> None:
        self._entry_points = entry_points
        self._factories: dict[str, BalancerFactory] = {}

    def register(self, name: str, factory: BalancerFactory) -> None:
        """Register ``factory`` for ``balancer=name``.

        Raises:
            ConfigError: the name is malformed, built in, or another factory's; or the factory is not callable.
        """
        named: object = name
        if not isinstance(named, str) or not _NAME.fullmatch(named):
            raise ConfigError("name", name, "must be lower case letters, digits, '_', '.' and '-', a letter first")
        if name in BUILT_IN:
            raise ConfigError("name", name, "is built in and cannot be registered")
        if not callable(factory):
            raise ConfigError("factory", factory, "must be callable without arguments and return a Balancer")
        if self._factories.setdefault(name, factory) is not factory:
            raise ConfigError("name", name, f"is already registered by {described(self._factories[name])}")

    def resolve(self, value: str | Balancer) -> Balancer:
        """Resolve the argument ``balancer=``: a balancer object, or a registered name.

        Raises:
            ConfigError: the name is unknown, its factory fails, or the object or what it returns is not a balancer.
        """
        if not isinstance(value, str):
            return _checked(value, value, "is neither a name nor an object")
        factory = BUILT_IN.get(value) or self._factories.get(value) or self._load(value)
        try:
            made = factory()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                "balancer", value, f"the balancer factory {described(factory)} raised {_told(error)}"
            ) from error
        return _checked(value, made, f"{described(factory)} returned {made!r:.200}, not an object")

    def _load(self, name: str) -> BalancerFactory:
        entry_points = list(self._entry_points())
        found = [point for point in entry_points if point.name == name]
        if not found:
            raise unknown_name("balancer", name, {*BUILT_IN, *self._factories, *(point.name for point in entry_points)})
        if len(found) > 1:
            raise ConfigError(
                "balancer", name, f"is provided by several packages: {', '.join(point.value for point in found)}"
            )
        entry_point = f"entry point {found[0].value!r}"
        try:
            factory: object = found[0].load()
        except Exception as error:
            raise ConfigError("balancer", name, f"{entry_point} failed to load: {_told(error)}") from error
        if not callable(factory):
            raise ConfigError("balancer", name, f"{entry_point} is not callable")
        # Two threads may load at once; both get the same object from the import system.
        return self._factories.setdefault(name, factory)


def _checked(value: object, balancer: object, problem: str) -> Balancer:
    if isinstance(balancer, type):
        raise ConfigError("balancer", value, f"is a class; pass an instance: {balancer.__name__}()")
    # Same result as isinstance() at a tenth of its cost: a channel checks twice.
    if not callable(getattr(balancer, "picker", None)):
        raise ConfigError("balancer", value, f"{problem} with a method picker(hosts, *, rng)")
    return cast("Balancer", balancer)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
