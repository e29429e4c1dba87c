"""Third-party resolvers: registration, entry points, and the errors of invalid ones."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from meshlib._core.discovery.registry import (
    EntryPoint,
    ResolverRegistry,
    checked,
    checked_resolver,
    described,
)
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.errors import ConfigError
from meshlib._core.target import Target, parse_target


class Consul:
    """A resolver as users write them."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def resolve(self, previous: Resolution | None) -> Resolution:
        """Never return endpoints."""
        return Resolution(endpoints=())


class Other(Consul):
    """Another resolver."""


@dataclass
class Installed:
    """The metadata of an installed package, as from ``importlib.metadata``."""

    name: str
    value: str
    loaded: Any
    loads: list[str] = field(default_factory=list)

    def load(self) -> Any:
        """Return the object, or raise the error of an import."""
        self.loads.append(self.name)
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def registry(*installed: Installed) -> ResolverRegistry:
    """A registry with some installed packages."""

    def entry_points() -> Iterable[EntryPoint]:
        return installed

    return ResolverRegistry(entry_points)


def target(text: str = "consul:///svc-a") -> Target:
    """A target of a scheme that is not built in."""
    return parse_target(text, any_scheme=True)


def test_a_registered_factory_makes_the_resolver() -> None:
    """The factory gets the parsed target."""
    schemes = registry()
    assert "consul" not in schemes
    schemes.register("consul", Consul)
    schemes.register("consul", Consul)
    assert list(schemes) == ["consul"]
    made = schemes.resolver(target())
    assert isinstance(made, Consul)
    assert made.target.host == "svc-a"


def test_an_entry_point_is_loaded_when_it_is_needed() -> None:
    """Its name is known at once; it is imported for the first target, once. Registered factories come first."""
    zk, consul = Installed("zk", "pkg:Zk", Consul), Installed("consul", "pkg:Consul", Other)
    schemes = registry(zk, consul)
    schemes.register("consul", Consul)
    assert set(schemes) == {"zk", "consul"}
    assert len(schemes) == 2
    assert type(schemes.resolver(target())) is Consul
    assert zk.loads == consul.loads == []
    assert isinstance(schemes.resolver(target("zk:///a")), Consul)
    assert isinstance(schemes.resolver(target("zk:///b")), Consul)
    assert zk.loads == ["zk"]


def test_entry_points_are_not_read_for_a_registered_scheme() -> None:
    """Reading the metadata of every installed package takes milliseconds that most programs need not spend."""

    def entry_points() -> Iterable[EntryPoint]:
        raise AssertionError

    schemes = ResolverRegistry(entry_points)
    schemes.register("consul", Consul)
    assert "consul" in schemes
    assert isinstance(schemes.resolver(target()), Consul)


@pytest.mark.parametrize(
    ("scheme", "factory", "complaint"),
    [
        ("Consul", Consul, "must be lower case letters"),
        ("con_sul", Consul, "must be lower case letters"),
        ("", Consul, "must be lower case letters"),
        (None, Consul, "must be lower case letters"),
        ("dns", Consul, "is built in"),
        ("xds", Consul, "is built in"),
        ("taken", Consul, "already registered by .*Other"),
        ("consul", Consul(target()), "must be callable"),
    ],
)
def test_a_bad_registration(scheme: Any, factory: Any, complaint: str) -> None:
    """It is rejected at once."""
    schemes = registry()
    schemes.register("taken", Other)
    with pytest.raises(ConfigError, match=complaint):
        schemes.register(scheme, factory)


def raises(target: Target) -> Consul:
    """A factory that fails."""
    raise OSError("no token in CONSUL_TOKEN")


def refuses(target: Target) -> Consul:
    """A factory that rejects a target properly."""
    raise ConfigError("target", target.text, "name a datacenter")


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (raises, r"raises raised OSError: no token in CONSUL_TOKEN"),
        (refuses, "name a datacenter"),
        (lambda _: None, r"result of .*<lambda>=None: must be an object with a method resolve"),
        (lambda _: Consul, "must be an object with a method resolve"),
    ],
)
def test_a_bad_factory(factory: Any, complaint: str) -> None:
    """Constructing the channel fails with the name of the plug-in and its error."""
    schemes = registry()
    schemes.register("consul", factory)
    with pytest.raises(ConfigError, match=complaint):
        schemes.resolver(target())


@pytest.mark.parametrize(
    ("installed", "complaint"),
    [
        (
            [Installed("consul", "a:f", ImportError("no module named a"))],
            "'a:f' failed to load: ImportError: no mod",
        ),
        ([Installed("consul", "a:f", 3)], "'a:f' is not callable"),
        ([Installed("consul", "a:f", Consul), Installed("consul", "b:f", Consul)], "not by a:f, b:f"),
    ],
)
def test_a_bad_entry_point(installed: list[Installed], complaint: str) -> None:
    """The error names the entry point; two packages with one scheme are both named."""
    with pytest.raises(ConfigError, match=complaint):
        registry(*installed).resolver(target())


def test_what_a_resolver_is() -> None:
    """An object with a method; a class is the usual mistake."""
    consul = Consul(target())
    assert checked_resolver("resolver", consul) is consul
    with pytest.raises(ConfigError, match=r"resolver=.*must be an object with a method resolve\(previous\)"):
        checked_resolver("resolver", Consul)


def test_an_answer_in_its_normal_form() -> None:
    """A list becomes a tuple, equal endpoints merge, a negative TTL becomes 0."""
    twice: Any = [Endpoint(address="127.0.0.1:1", weight=2), Endpoint(address="127.0.0.1:1", weight=3)]
    answer = checked(Resolution(endpoints=twice, ttl=-1.0), Consul(target()))
    assert answer == Resolution(endpoints=(Endpoint(address="127.0.0.1:1", weight=5),), ttl=0.0)


UNHASHABLE: Any = ([],)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (None, "returned None, not a meshlib.discovery.Resolution"),
        (["127.0.0.1:1"], "not a meshlib.discovery.Resolution"),
        (Resolution(endpoints=(), ttl="5"), "ttl='5'"),  # type: ignore[arg-type]
        (Resolution(endpoints=(), ttl=float("nan")), "ttl=nan"),
        (Resolution(endpoints=None), "endpoints=None"),  # type: ignore[arg-type]
        (Resolution(endpoints=("127.0.0.1:1",)), "'127.0.0.1:1' among the endpoints"),  # type: ignore[arg-type]
        (Resolution(endpoints=(Endpoint(address="web-1:80"),)), "address 'web-1:80'; it must be IP:port or unix:path"),
        (Resolution(endpoints=(Endpoint(address="127.0.0.1:1", authority=UNHASHABLE),)), "cannot be hashed"),
        (Resolution(endpoints=(Endpoint(address="127.0.0.1:1", attributes=UNHASHABLE),)), "cannot be hashed"),
    ],
)
def test_an_answer_that_makes_no_sense(answer: object, complaint: str) -> None:
    """The resolution fails, and its error names the plug-in and the value."""
    with pytest.raises(ResolveError, match=f"resolver .*Consul returned .*{complaint}|{complaint}") as caught:
        checked(answer, Consul(target()))
    assert "Consul returned" in str(caught.value)


def test_how_a_plugin_is_named() -> None:
    """By its class, or by its own name if it has one."""
    assert described(Consul(target())).endswith(".Consul")
    assert described(raises).endswith(".raises")
    assert described(3) == "builtins.int"
