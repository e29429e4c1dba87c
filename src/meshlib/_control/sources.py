"""The source of a channel's endpoints: made with the channel, resolved at its first call."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import final

from meshlib._control.plugins import REGISTRY
from meshlib._core.address import join
from meshlib._core.discovery.contracts import Resolver
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.registry import checked_resolver, described
from meshlib._core.endpoint import Endpoint, Resolution, merge_duplicates
from meshlib._core.target import BUILT_IN_SCHEMES, Target

__all__ = ["Source", "fixed", "source"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """The source of a channel's endpoints; made with the channel, resolved at its first call.

    Args:
        target: the application's target.
        policy: DNS configuration.
        plugin: the application's resolver, or that of a registered scheme; None: a built-in one.
        name: of the resolver, for messages and snapshots.
        key: equal for sources that can share a resolution.
    """

    target: Target
    policy: DnsPolicy
    plugin: Resolver | None
    name: str
    key: Hashable


def source(target: Target, policy: DnsPolicy, resolver: Resolver | None = None) -> Source:
    """Return the source of ``target``; with ``resolver``, that one instead of the scheme's own.

    Raises:
        ConfigError: the resolver is invalid, or the scheme's factory rejected the target.
    """
    if resolver is not None:
        checked_resolver("resolver", resolver)
        # The source keeps the object alive, so its id stays unique.
        return Source(
            target=target, policy=policy, plugin=resolver, name=described(resolver), key=(target, policy, id(resolver))
        )
    plugin = None
    if not target.native and target.scheme and target.scheme not in BUILT_IN_SCHEMES:
        plugin = REGISTRY.resolver(target)
    if plugin is not None or fixed(target) is None:
        import meshlib._control.resolvers  # noqa: F401 - here, so that no event loop waits for it later
    name = described(plugin) if plugin is not None else "native" if target.native else target.scheme or "name"
    return Source(target=target, policy=policy, plugin=plugin, name=name, key=(target, policy))


def fixed(target: Target) -> Resolution | None:
    """Return the endpoints of a target that lists only addresses; None if a lookup is needed."""
    if target.native:
        return _fixed(Endpoint(address=target.text or "dns:///"))
    if target.scheme == "unix":
        return _fixed(Endpoint(address=f"unix:{target.path}"))
    if target.entries and all(entry.is_ip for entry in target.entries):
        return _fixed(
            *(
                Endpoint(address=join(entry.host, entry.port or target.default_port), authority=str(entry))
                for entry in target.entries
            )
        )
    if target.is_ip and target.scheme in ("", "dns"):
        return _fixed(Endpoint(address=join(target.host, target.port or target.default_port)))
    return None


def _fixed(*endpoints: Endpoint) -> Resolution:
    return Resolution(endpoints=merge_duplicates(endpoints))
