"""Balancers by name and as objects, including third-party ones, and the errors of invalid ones."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from meshlib._control.balancers import REGISTRY
from meshlib._core.balancing.registry import BUILT_IN, BalancerRegistry
from meshlib._core.discovery.registry import EntryPoint
from meshlib._core.errors import ConfigError
from meshlib.balancing import Host, LeastRequest, Picker, RoundRobin, register_balancer


class Mine:
    """A balancer as users write them: no base class."""

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Return any other balancer's picker."""
        return RoundRobin().picker(hosts, rng=rng)


@dataclass
class Installed:
    """The metadata of an installed package, as from ``importlib.metadata``."""

    name: str
    value: str
    loaded: Any = Mine
    loads: list[str] = field(default_factory=list)

    def load(self) -> Any:
        """Return the object, or raise the error of an import."""
        self.loads.append(self.name)
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def registry(*installed: Installed) -> BalancerRegistry:
    """A registry with some installed packages."""

    def entry_points() -> Iterable[EntryPoint]:
        return installed

    return BalancerRegistry(entry_points)


def broken() -> Any:
    """A factory that fails."""
    raise RuntimeError("no licence")


def refusing() -> Any:
    """A factory that rejects its environment with a configuration error."""
    raise ConfigError("zone", "", "must be set")


def nothing() -> Any:
    """A factory that returns no balancer."""
    return 7


def said(action: Callable[[], object]) -> str:
    """The text of the configuration error."""
    with pytest.raises(ConfigError) as raised:
        action()
    return str(raised.value)


@pytest.mark.parametrize(("name", "made"), BUILT_IN.items())
def test_built_in_names(name: str, made: type) -> None:
    """Each name of gRPC and Envoy makes its balancer, with its defaults; installed packages are not read."""

    def entry_points() -> Iterable[EntryPoint]:
        raise AssertionError("looked up for nothing")

    assert BalancerRegistry(entry_points).resolve(name) == made()


def test_objects_are_taken_as_they_are() -> None:
    """Configured built-in ones, and any object with a method ``picker``."""
    for balancer in (LeastRequest(choice_count=3), Mine()):
        assert registry().resolve(balancer) is balancer


def test_registered_names() -> None:
    """The factory is called for each channel; registering it again changes nothing."""
    names = registry()
    names.register("acme.nearest", Mine)
    names.register("acme.nearest", Mine)
    first, second = names.resolve("acme.nearest"), names.resolve("acme.nearest")
    assert isinstance(first, Mine)
    assert first is not second


def test_installed_names_are_loaded_once_and_when_asked_for() -> None:
    """An installed balancer is imported only on first use."""
    wanted, other = Installed("nearest", "acme:Nearest"), Installed("farthest", "acme:Farthest")
    names = registry(wanted, other)
    assert isinstance(names.resolve("nearest"), Mine)
    assert isinstance(names.resolve("nearest"), Mine)
    assert (wanted.loads, other.loads) == (["nearest"], [])


def test_an_unknown_name_lists_the_known_ones() -> None:
    """Built-in, registered and installed names, and the nearest one."""
    names = registry(Installed("nearest", "acme:Nearest"))
    names.register("mine", Mine)
    assert said(lambda: names.resolve("round-robin")) == (
        "balancer='round-robin': unknown name; known: least_request, mine, nearest, pick_first, random, round_robin; "
        "did you mean 'round_robin'?"
    )


@pytest.mark.parametrize(
    ("name", "factory", "message"),
    [
        ("round_robin", Mine, "name='round_robin': is built in and cannot be registered"),
        ("taken", RoundRobin, "name='taken': is already registered by "),
        ("My Own", Mine, "name='My Own': must be lower case letters, digits, '_', '.' and '-', a letter first"),
        ("", Mine, "name='': must be "),
        (None, Mine, "name=None: must be "),
        ("mine", Mine(), "factory=<"),
    ],
)
def test_a_bad_registration_fails_at_once(name: Any, factory: Any, message: str) -> None:
    """The error has the field, the value and the allowed form."""
    names = registry()
    names.register("taken", Mine)
    assert said(lambda: names.register(name, factory)).startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "balancer=None: is neither a name nor an object with a method picker(hosts, *, rng)"),
        (3, "balancer=3: is neither a name nor an object"),
        (Mine, f"balancer={Mine!r}: is a class; pass an instance: Mine()"),
        ("broken", f"balancer='broken': the balancer factory {__name__}.broken raised RuntimeError: no licence"),
        ("refusing", "zone='': must be set"),
        ("nothing", f"balancer='nothing': {__name__}.nothing returned 7, not an object with a method picker"),
        ("twice", "balancer='twice': is provided by several packages: acme:A, initech:B"),
        ("unloadable", "balancer='unloadable': entry point 'acme:C' failed to load: ImportError: no acme"),
        ("uncallable", "balancer='uncallable': entry point 'acme:D' is not callable"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(value: Any, message: str) -> None:
    """The error has the argument, the plug-in responsible, and the reason."""
    names = registry(
        Installed("twice", "acme:A"),
        Installed("twice", "initech:B"),
        Installed("unloadable", "acme:C", ImportError("no acme")),
        Installed("uncallable", "acme:D", 7),
    )
    for factory in (broken, refusing, nothing):
        names.register(factory.__name__, factory)
    assert said(lambda: names.resolve(value)).startswith(message)


def test_the_public_function_registers_for_the_process() -> None:
    """A channel constructed later finds a balancer passed to ``register_balancer``."""
    register_balancer("test_registry.mine", Mine)
    assert isinstance(REGISTRY.resolve("test_registry.mine"), Mine)
