"""What a user says of a channel, checked and settled once: both kinds of channel are built from this value."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from meshlib._adapt.options import Options, checked
from meshlib._control.balancers import REGISTRY as BALANCERS
from meshlib._control.notices import announce
from meshlib._control.plugins import REGISTRY as RESOLVERS
from meshlib._control.sources import Source, source
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.discovery.contracts import Resolver
from meshlib._core.errors import ConfigError
from meshlib._core.policy import DnsPolicy, HedgingPolicy, MethodPolicy, MethodTable, RetryBudget, RetryPolicy
from meshlib._core.target import Target, parse_target

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Settings", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a channel is built from. The fields are the arguments of ``meshlib.channel``, checked."""

    target: Target
    source: Source
    balancer: Balancer
    credentials: grpc.ChannelCredentials | None = None
    options: Options = ()
    compression: grpc.Compression | None = None
    interceptors: tuple[Any, ...] = ()
    attempt_interceptors: tuple[Any, ...] = ()
    methods: MethodTable = field(default_factory=MethodTable)
    retry_budget: RetryBudget | None = field(default_factory=RetryBudget)
    tracer_provider: "TracerProvider | None" = None
    meter_provider: "MeterProvider | None" = None


def settle(
    target: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] | None = (),
    attempt_interceptors: Sequence[Any] | None = (),
    resolver: Resolver | None = None,
    dns: DnsPolicy | None = None,
    balancer: str | Balancer = "round_robin",
    retry: RetryPolicy | HedgingPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
    retry_budget: RetryBudget | None = RetryBudget(),  # noqa: B008 - frozen
    timeout: float | None = None,
    methods: Mapping[str, MethodPolicy] | None = None,
    tracer_provider: "TracerProvider | None" = None,
    meter_provider: "MeterProvider | None" = None,
    as_grpc: bool = False,
) -> Settings:
    """Checks the arguments of a channel.

    Args:
        as_grpc: behind grpc's own factories: every target grpc takes is taken, and answered by grpc at the call.

    Raises:
        ConfigError: an argument cannot be used; the message names it, its value and what is allowed.
    """
    _refuse_gevent()
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise ConfigError(
            "credentials", credentials, "must be grpc.ChannelCredentials, or None for a plaintext connection"
        )
    if compression is not None and not isinstance(compression, grpc.Compression):
        raise ConfigError("compression", compression, "must be a grpc.Compression")
    if retry_budget is not None and not isinstance(retry_budget, RetryBudget):
        raise ConfigError("retry_budget", retry_budget, "must be a RetryBudget, or None for no limit")
    if dns is not None and not isinstance(dns, DnsPolicy):
        raise ConfigError("dns", dns, "must be a DnsPolicy")
    parsed = parse_target(
        target,
        secure=credentials is not None,
        lenient=as_grpc,
        any_scheme=resolver is not None,
        schemes=RESOLVERS,
    )
    given = checked(options, as_grpc=as_grpc)
    announce(parsed, given, secure=credentials is not None)
    return Settings(
        target=parsed,
        source=source(parsed, dns or DnsPolicy(), resolver),
        balancer=BALANCERS.resolve(balancer),
        credentials=credentials,
        options=given,
        compression=compression,
        interceptors=tuple(interceptors or ()),
        attempt_interceptors=tuple(attempt_interceptors or ()),
        methods=MethodTable(retry=retry, timeout=timeout, methods={} if methods is None else methods),
        retry_budget=retry_budget,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )


def _refuse_gevent() -> None:
    """gevent replaces threads by greenlets, which C-core's threads cannot wake without grpc's own gevent mode."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise ConfigError(
            "gevent",
            "monkey-patched",
            "meshlib needs real threads: its control plane and grpc's callbacks run on threads that a patched "
            "threading module cannot wake; do not patch threading in this process",
        )
