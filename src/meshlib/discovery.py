"""Bring your own discovery: what a resolver is given and owes, and where it is registered.

A resolver is one method. A plain ``def`` runs in a thread, an ``async def`` on an event loop, and either serves
channels of both kinds::

    class Consul:
        def __init__(self, target: Target) -> None:
            self.name = target.host

        async def resolve(self, previous: Resolution | None) -> Resolution:
            instances = await ask_consul(self.name)
            return Resolution(endpoints=tuple(Endpoint(address=f"{ip}:{port}") for ip, port in instances), ttl=5.0)

    register_resolver("consul", Consul)
    channel = meshlib.channel("consul:///svc-a")

A package registers its resolver for all its users by an entry point of the group ``meshlib.resolvers``, named like the
scheme. A single channel takes any resolver by ``meshlib.channel("svc-a", resolver=...)``.
"""

from meshlib._control.plugins import REGISTRY
from meshlib._core.discovery.contracts import Resolver
from meshlib._core.discovery.registry import ResolverFactory
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.target import Target

__all__ = ["Endpoint", "Resolution", "Resolver", "Target", "register_resolver"]


def register_resolver(scheme: str, factory: ResolverFactory) -> None:
    """Make ``factory`` the maker of the resolvers of all targets ``scheme://...``.

    Args:
        scheme: lower case letters, digits, ``+``, ``.`` and ``-``, a letter first; no built-in one.
        factory: is given the parsed :class:`Target` when a channel is constructed, and returns a :class:`Resolver`; a
            class will do. It should connect to nothing yet: the channel may be used after a fork, or never. What it
            raises fails the construction. Channels of one event loop that have equal targets and DNS policies share the
            resolver of the first.

    Raises:
        ConfigError: the scheme is malformed, built in, or registered for another factory; the factory is not callable.
    """
    REGISTRY.register(scheme, factory)
