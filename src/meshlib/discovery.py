"""Service discovery with your own resolvers.

A resolver has one method. A plain ``def`` runs in a thread, an ``async def`` on an event loop; either serves sync and
asyncio channels::

    class Consul:
        def __init__(self, target: Target) -> None:
            self.name = target.host

        async def resolve(self, previous: Resolution | None) -> Resolution:
            instances = await ask_consul(self.name)
            return Resolution(endpoints=tuple(Endpoint(address=f"{ip}:{port}") for ip, port in instances), ttl=5.0)

    register_resolver("consul", Consul)
    channel = meshlib.channel("consul:///svc-a")

A package registers its resolver for all its users with an entry point in the group ``meshlib.resolvers``, named like
the scheme. For a single channel pass ``meshlib.channel("svc-a", resolver=...)``.
"""

from meshlib._control.plugins import REGISTRY
from meshlib._core.discovery.contracts import Resolver
from meshlib._core.discovery.registry import ResolverFactory
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.target import Target

__all__ = ["Endpoint", "Resolution", "Resolver", "Target", "register_resolver"]


def register_resolver(scheme: str, factory: ResolverFactory) -> None:
    """Register a resolver factory for all targets ``scheme://...``.

    Args:
        scheme: lower case letters, digits, ``+``, ``.`` and ``-``, a letter first; not a built-in scheme.
        factory: called with the parsed :class:`Target` at the construction of a channel; returns a :class:`Resolver`.
            May be a class. It should not connect yet: the channel may be used after a fork, or never. An exception
            fails the construction. Channels of one event loop with equal targets and DNS policies share the resolver of
            the first.

    Raises:
        ConfigError: the scheme is malformed, built in, or registered for another factory; the factory is not callable.
    """
    REGISTRY.register(scheme, factory)
