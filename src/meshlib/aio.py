"""Channels for asyncio: :func:`channel` creates a ``grpc.aio.Channel``.

    async with meshlib.aio.channel("svc-a") as channel:
        stub = greeter_pb2_grpc.GreeterStub(channel)

A channel may be created anywhere, even at import. It serves the event loop of its first call.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc

from meshlib._control.arguments import ChannelArguments, takes

if TYPE_CHECKING:
    from meshlib._aio.channel import Channel

__all__ = ["Channel", "channel", "insecure_channel", "secure_channel"]

if not TYPE_CHECKING:  # to a type checker it would mean that the module has every name

    def __getattr__(name: str) -> object:
        """Load ``Channel`` at first use: the import must be fast, and the code that serves calls is ten times as large
        as the policies."""
        if name != "Channel":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from meshlib._aio.channel import Channel

        return Channel

    def __dir__() -> list[str]:
        """List ``Channel``, loaded or not."""
        return sorted({*globals(), *__all__})


@takes(ChannelArguments)
def channel(arguments: ChannelArguments) -> "Channel":
    """Create a channel to a service.

    Args:
        target: ``"svc-a"``, ``"svc-a:50051"``, ``"dns:///host:port"``, ``"dns://nameserver:53/host:port"``,
            ``"srv:///_grpc._tcp.svc-a.example.com"``, ``"static:///h1:1,h2:2"``, ``"ipv4:"``, ``"ipv6:"`` and
            ``"unix:"`` as in grpc, or any registered scheme.
        credentials: as for ``grpc.aio.secure_channel``; None: plaintext.
        options: channel arguments of grpc, for every connection.
        compression: default compression of calls.
        interceptors: interceptors of grpc.aio, run once per call; one that implements several kinds serves all of them.
        attempt_interceptors: the same, run once per attempt.
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
    from meshlib._aio.channel import Channel
    from meshlib._control.settings import settle

    return Channel(settle(arguments, aio=True))


def insecure_channel(
    target: str,
    options: Iterable[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Iterable[Any] | None = None,
) -> "Channel":
    """Drop-in replacement for ``grpc.aio.insecure_channel``: the same signature and targets.

    Calls run as often as with grpc: only an attempt that provably reached no server is retried, as with
    ``RetryPolicy(unsent_only=True)``. :func:`channel` retries ``UNAVAILABLE`` too.
    """
    from meshlib._aio.channel import Channel
    from meshlib._control.settings import settle

    return Channel(
        settle(
            ChannelArguments(target, options=options, compression=compression, interceptors=interceptors), as_grpc=True
        )
    )


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Iterable[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Iterable[Any] | None = None,
) -> "Channel":
    """Drop-in replacement for ``grpc.aio.secure_channel``: the same signature and targets.

    Calls run as often as with grpc: only an attempt that provably reached no server is retried, as with
    ``RetryPolicy(unsent_only=True)``. :func:`channel` retries ``UNAVAILABLE`` too.
    """
    from meshlib._aio.channel import Channel
    from meshlib._control.settings import settle

    return Channel(
        settle(
            ChannelArguments(
                target, credentials=credentials, options=options, compression=compression, interceptors=interceptors
            ),
            as_grpc=True,
        )
    )
