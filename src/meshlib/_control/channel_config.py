"""The configuration of a channel: its listener and its clusters, resolved and checked.

A value that is replaced as a whole. Interceptors and telemetry providers are not part of it: see
:class:`~meshlib._control.settings.Settings`.
"""

from dataclasses import dataclass, field

import grpc

from meshlib._adapt.options import SERVICE_CONFIG, Options, for_subchannel, native_target, numbered
from meshlib._control.sources import Source
from meshlib._core.bounded_cache import BoundedCache
from meshlib._core.cluster_policy import ClusterPolicy
from meshlib._core.host import HostEntry
from meshlib._core.policy import MethodTable, Plan, TelemetryPolicy
from meshlib._core.sharing import Sharing
from meshlib._core.target import Target

__all__ = ["ChannelConfig", "ClusterConfig", "ListenerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """Settings for the calls of a channel, independent of the cluster.

    Args:
        target: as the application wrote it.
        methods: the policies of its methods.
        method_keys: the keys of ``methods=``, without those of a service config.
        telemetry: telemetry beyond one span and one measurement for each call.
    """

    target: Target
    methods: MethodTable = field(default_factory=MethodTable)
    method_keys: tuple[str, ...] = ()
    telemetry: TelemetryPolicy = field(default_factory=TelemetryPolicy)
    plans: BoundedCache[str, Plan] = field(init=False, repr=False, compare=False)
    """The resolved policies of each method that was called."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "plans", BoundedCache(self.methods.plan))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """One cluster: its endpoints, how a connection to one is made, and its policy.

    Args:
        target: of its endpoints.
        source: finds them.
        policy: of its machine.
        credentials: of its connections; None: plaintext.
        options: channel arguments of its connections.
        compression: default compression of calls.
    """

    target: Target
    source: Source
    policy: ClusterPolicy
    credentials: grpc.ChannelCredentials | None = None
    options: Options = ()
    compression: grpc.Compression | None = None

    def subchannel(self, host: HostEntry, sharing: Sharing | None = None) -> tuple[str, Options]:
        """Return the target and the options of the grpc channel to ``host``.

        Args:
            host: the host to connect.
            sharing: of the process; None: failing connections are shared, too.
        """
        if self.target.native:
            target, options = self.target.text, self.options
        else:
            endpoint = host.endpoint
            authority = endpoint.authority or self.target.authority
            # pick_first, which tries several addresses, ignores health (gRFC A17): checks use the first only.
            watched = any(name == SERVICE_CONFIG for name, _ in self.options)
            alternatives = () if watched else endpoint.alternatives
            target = native_target(endpoint.address, *alternatives)
            options = for_subchannel(self.options, authority, alternatives=bool(alternatives))
        if sharing is None:
            return target, options
        # As text: grpc's own factories also take unhashable values.
        number = sharing.number((target, repr(options), self.credentials), host)
        return target, numbered(options, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """The configuration of one channel.

    Args:
        listener: what applies to all its calls.
        cluster: where they go.
    """

    listener: ListenerConfig
    cluster: ClusterConfig
