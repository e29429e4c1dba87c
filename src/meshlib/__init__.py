"""Envoy's client-side behaviour inside a Python gRPC application.

    channel = meshlib.channel("svc-a")

creates a ``grpc.Channel`` to the service ``svc-a``. It discovers the instances, picks one for each call, retries failed
calls on others, and traces and counts everything. :mod:`meshlib.aio` is the same for asyncio.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import grpc

from meshlib._control.arguments import ChannelArguments, takes
from meshlib._core.errors import ConfigError
from meshlib._core.policy import (
    CircuitBreaker,
    DnsPolicy,
    HedgingPolicy,
    MethodPolicy,
    OutlierDetection,
    RetryBudget,
    RetryPolicy,
    RetryThrottling,
    TelemetryPolicy,
)
from meshlib._core.version import VERSION

if TYPE_CHECKING:
    from meshlib import aio as aio
    from meshlib import balancing as balancing
    from meshlib import discovery as discovery
    from meshlib import telemetry as telemetry
    from meshlib import testing as testing
    from meshlib._control.mesh import Mesh
    from meshlib._core.snapshot import ChannelSnapshot, HostSnapshot
    from meshlib._core.view import AttemptView, CallMesh
    from meshlib._sync.channel import Channel

__all__ = [
    # channels
    "Channel",
    "channel",
    "insecure_channel",
    "secure_channel",
    # what the mesh did
    "explain",
    "CallMesh",
    "AttemptView",
    "Mesh",
    "ChannelSnapshot",
    "HostSnapshot",
    # policies
    "CircuitBreaker",
    "DnsPolicy",
    "HedgingPolicy",
    "MethodPolicy",
    "OutlierDetection",
    "RetryBudget",
    "RetryPolicy",
    "RetryThrottling",
    "TelemetryPolicy",
    # errors
    "ConfigError",
]

__version__ = VERSION

_SUBMODULES: Final = ("aio", "balancing", "discovery", "telemetry", "testing")
_HOMES: Final = {
    "Channel": "meshlib._sync.channel",
    "Mesh": "meshlib._control.mesh",
    "ChannelSnapshot": "meshlib._core.snapshot",
    "HostSnapshot": "meshlib._core.snapshot",
    "CallMesh": "meshlib._core.view",
    "AttemptView": "meshlib._core.view",
}

if not TYPE_CHECKING:  # to a type checker it would mean that the module has every name

    def __getattr__(name: str) -> object:
        """Load submodules and the classes that serve calls at first use, to keep the import fast."""
        if name in _SUBMODULES:
            return import_module(f"meshlib.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        """List the names that are not loaded yet, too."""
        return sorted({*globals(), *__all__, *_SUBMODULES})


def explain(error_or_call: object) -> "CallMesh | None":
    """Explain a call: return its attribute ``mesh``, which the types of grpc lack.

    Args:
        error_or_call: a ``grpc.RpcError``, or the call object of ``with_call``, ``future``, a stream or asyncio.

    Returns:
        Its ``mesh``; None if the call is not meshlib's.
    """
    from meshlib._adapt.grpcio import inner
    from meshlib._core.view import CallMesh

    mesh = getattr(error_or_call, "mesh", None) or getattr(inner(error_or_call), "mesh", None)
    return mesh if isinstance(mesh, CallMesh) else None


@takes(ChannelArguments)
def channel(arguments: ChannelArguments) -> "Channel":
    """Create a channel to a service.

    Args:
        target: ``"svc-a"``, ``"svc-a:50051"``, ``"dns:///host:port"``, ``"dns://nameserver:53/host:port"``,
            ``"srv:///_grpc._tcp.svc-a.example.com"``, ``"static:///h1:1,h2:2"``, ``"ipv4:"``, ``"ipv6:"`` and
            ``"unix:"`` as in grpc, or any registered scheme.
        credentials: as for ``grpc.secure_channel``; None: plaintext.
        options: channel arguments of grpc, for every connection.
        compression: default compression of calls.
        interceptors: client interceptors of grpc, run once per call.
        attempt_interceptors: client interceptors of grpc, run once per attempt.
        resolver: finds the endpoints, in place of the target's scheme.
        dns: DNS configuration.
        balancer: load balancing: a registered name or a balancer object.
        retry: retries or hedging; None: no retries. Set None in ``methods`` for a method that must not run twice.
        retry_budget: limit of concurrent retries, by Envoy's rule (``RetryBudget``) or gRPC's (``RetryThrottling``);
            None: no limit.
        timeout: default timeout in seconds of calls that return one message; None: no limit.
        methods: overrides for methods (``"/pkg.Svc/Method"``), services (``"/pkg.Svc/*"``) or all (``"*"``).
        service_config: a gRPC service config, as JSON text or a mapping: ``methodConfig``, ``retryThrottling``,
            ``loadBalancingConfig`` and ``healthCheckConfig``. It may be in ``options`` instead. A setting that is also
            given as an argument is rejected.
        outlier_detection: ejection of hosts that answer badly; None: off.
        circuit_breaker: limits of concurrent attempts and calls; None: no limits.
        telemetry: telemetry beyond one span and one measurement for each call.
        tracer_provider: of OpenTelemetry; None: the global one.
        meter_provider: of OpenTelemetry; None: the global one.

    Raises:
        ConfigError: an argument is invalid; the message names it, its value and what is allowed.
    """
    from meshlib._control.settings import settle
    from meshlib._sync.channel import Channel

    return Channel(settle(arguments))


def insecure_channel(
    target: str,
    options: Iterable[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
) -> "Channel":
    """Drop-in replacement for ``grpc.insecure_channel``: the same signature and targets.

    Calls run as often as with grpc: only an attempt that provably reached no server is retried, as with
    ``RetryPolicy(unsent_only=True)``. :func:`channel` retries ``UNAVAILABLE`` too.
    """
    from meshlib._control.settings import settle
    from meshlib._sync.channel import Channel

    arguments = ChannelArguments(target, options=options, compression=compression)
    return Channel(settle(arguments, as_grpc=True))


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Iterable[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
) -> "Channel":
    """Drop-in replacement for ``grpc.secure_channel``: the same signature and targets.

    Calls run as often as with grpc: only an attempt that provably reached no server is retried, as with
    ``RetryPolicy(unsent_only=True)``. :func:`channel` retries ``UNAVAILABLE`` too.
    """
    from meshlib._control.settings import settle
    from meshlib._sync.channel import Channel

    return Channel(
        settle(
            ChannelArguments(target, credentials=credentials, options=options, compression=compression), as_grpc=True
        )
    )
