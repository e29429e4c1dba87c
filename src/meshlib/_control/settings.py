"""The checked arguments of a channel, from which both kinds of channel are built."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from meshlib._adapt.grpcio import transport
from meshlib._adapt.options import (
    LB_POLICY,
    Options,
    checked,
    without_effect,
    without_retries,
)
from meshlib._adapt.options import balancer as balancer_of
from meshlib._control.arguments import ChannelArguments
from meshlib._control.balancers import REGISTRY as BALANCERS
from meshlib._control.channel_config import ChannelConfig, ClusterConfig, ListenerConfig
from meshlib._control.configs import configured, either, with_service_config
from meshlib._control.notices import announce, unheeded
from meshlib._control.plugins import REGISTRY as RESOLVERS
from meshlib._control.sources import source
from meshlib._core.cluster_policy import ClusterPolicy
from meshlib._core.errors import ConfigError
from meshlib._core.policy import (
    CircuitBreaker,
    DnsPolicy,
    MethodTable,
    OutlierDetection,
    RetryBudget,
    RetryPolicy,
    RetryThrottling,
    TelemetryPolicy,
)
from meshlib._core.target import Target, parse_target

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Settings", "settle"]

_GEVENT: Final = ("threading", "queue", "select", "selectors")
"""Modules that meshlib's threads need unpatched; gevent may patch some and not others."""

_KINDS: Final = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
UNSENT_ONLY: Final = RetryPolicy(unsent_only=True)
"""Retries in the replacements of grpc's factories: as in grpc, only of calls that provably never ran. An application
that only replaced the factory expects no other retries, and a library may rely on that (``retry=None`` of a Firestore
client, an etcd transaction)."""


_TYPES: Final[tuple[tuple[str, tuple[type, ...], str], ...]] = (
    ("compression", (grpc.Compression, NoneType), "must be a grpc.Compression"),
    (
        "retry_budget",
        (RetryBudget, RetryThrottling, NoneType),
        "must be a RetryBudget, a RetryThrottling, or None for no limit",
    ),
    ("outlier_detection", (OutlierDetection, NoneType), "must be an OutlierDetection, or None for none"),
    ("circuit_breaker", (CircuitBreaker, NoneType), "must be a CircuitBreaker, or None for no limits"),
    ("telemetry", (TelemetryPolicy,), "must be a TelemetryPolicy"),
    ("dns", (DnsPolicy, NoneType), "must be a DnsPolicy, or None for the default"),
)
"""Arguments that are meshlib or grpc objects: name, allowed types, and how the error names them."""

_PROVIDERS: Final = (
    ("tracer_provider", "get_tracer", "must be an OpenTelemetry TracerProvider, or None for the global one"),
    ("meter_provider", "get_meter", "must be an OpenTelemetry MeterProvider, or None for the global one"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The checked arguments of ``meshlib.channel``: a configuration, and the application's own code."""

    config: ChannelConfig
    interceptors: tuple[Any, ...] = ()
    attempt_interceptors: tuple[Any, ...] = ()
    tracer_provider: "TracerProvider | None" = None
    meter_provider: "MeterProvider | None" = None


def settle(arguments: ChannelArguments, *, as_grpc: bool = False, aio: bool = False) -> Settings:
    """Check the arguments of a channel.

    Args:
        arguments: as the application gave them.
        as_grpc: set by the replacements of grpc's factories. grpc's targets and interceptors are accepted, and grpc
            reports bad ones at the call. Only unsent attempts are retried, unless a service config says otherwise.
        aio: for an asyncio channel, whose interceptors have other classes.

    Raises:
        ConfigError: an argument cannot be used; the message names it, its value and what is allowed.
    """
    _refuse_gevent()
    _check_types(arguments)
    credentials, written = arguments.credentials, arguments.written
    secure = transport(credentials) != "plaintext"
    target = parse_target(
        arguments.target,
        secure=secure,
        lenient=as_grpc,
        any_scheme=arguments.resolver is not None,
        schemes=RESOLVERS,
    )
    options = checked(arguments.options, as_grpc=as_grpc)
    named = None
    if not target.native:
        named, options = balancer_of(options)
        _unheeded(options, target, as_grpc=as_grpc)
        if named is not None and "balancer" in written:
            raise ConfigError(
                "balancer", arguments.balancer, f"is also set in options[{LB_POLICY!r}]; set only one of them"
            )
    service, options = configured(arguments.service_config, options, target=target, as_grpc=as_grpc)
    table = MethodTable(
        retry=UNSENT_ONLY if as_grpc else arguments.retry,
        timeout=arguments.timeout,
        methods=with_service_config(arguments.methods, service),
    )
    announce(target, options, secure=secure)
    budget = arguments.retry_budget
    throttling = budget if isinstance(budget, RetryThrottling) else None
    own_interceptors = arguments.interceptors
    return Settings(
        config=ChannelConfig(
            listener=ListenerConfig(
                target=target,
                methods=table.without_retries() if as_grpc and without_retries(options) else table,
                method_keys=tuple(arguments.methods or ()),
                telemetry=arguments.telemetry,
            ),
            cluster=ClusterConfig(
                target=target,
                source=source(target, DnsPolicy() if arguments.dns is None else arguments.dns, arguments.resolver),
                policy=ClusterPolicy(
                    balancer=either(
                        "balancer",
                        arguments.balancer,
                        "balancer" in written,
                        BALANCERS.resolve(named or arguments.balancer),
                        service.balancer,
                    ),
                    retry_budget=budget if isinstance(budget, RetryBudget) else None,
                    # The throttling of a service config can be combined with a budget, not with another throttling.
                    retry_throttling=either(
                        "retry_budget", budget, throttling is not None, throttling, service.retry_throttling
                    ),
                    outlier_detection=arguments.outlier_detection,
                    circuit_breaker=arguments.circuit_breaker,
                ),
                credentials=credentials,
                options=options,
                compression=arguments.compression,
            ),
        ),
        interceptors=tuple(own_interceptors or ())
        if as_grpc
        else _interceptors("interceptors", own_interceptors, aio=aio),
        attempt_interceptors=_interceptors("attempt_interceptors", arguments.attempt_interceptors, aio=aio),
        tracer_provider=arguments.tracer_provider,
        meter_provider=arguments.meter_provider,
    )


def _check_types(arguments: ChannelArguments) -> None:
    """Reject arguments of a wrong type."""
    credentials = arguments.credentials
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise ConfigError(
            # Only the type: a value given by mistake may be a key.
            "credentials",
            type(credentials).__name__,
            "must be grpc.ChannelCredentials, or None for a plaintext connection",
        )
    for name, types, allowed in _TYPES:
        value = getattr(arguments, name)
        if not isinstance(value, types):
            raise ConfigError(name, value, allowed)
    for name, method, allowed in _PROVIDERS:
        provider = getattr(arguments, name)
        if provider is not None and not callable(getattr(provider, method, None)):
            raise ConfigError(name, provider, allowed)


def _unheeded(options: Options, target: Target, *, as_grpc: bool) -> None:
    """Reject options that can have no effect; in the replacements of grpc's factories, log them instead."""
    for name, value, reason in without_effect(options):
        if not as_grpc:
            raise ConfigError(f"options[{name!r}]", value, reason)
        unheeded(target, name, value, reason)


def _interceptors(name: str, given: Iterable[Any] | None, *, aio: bool) -> tuple[Any, ...]:
    """Check interceptors: those of the wrong library would fail at the first connection, not in the caller."""
    library = grpc.aio if aio else grpc
    kinds = tuple(getattr(library, f"{kind}ClientInterceptor") for kind in _KINDS)
    if given is not None and not isinstance(given, Iterable):
        raise ConfigError(name, given, "must be a list of client interceptors")
    made = tuple(given or ())
    for interceptor in made:
        if not isinstance(interceptor, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(name, interceptor, f"must be a {names} of {library.__name__}")
    return made


def _refuse_gevent() -> None:
    """Reject gevent: C-core's threads cannot wake its greenlets without grpc's own gevent mode."""
    monkey = sys.modules.get("gevent.monkey")
    patched = [name for name in _GEVENT if monkey is not None and monkey.is_module_patched(name)]
    if patched:
        raise ConfigError(
            "gevent",
            f"patched {', '.join(patched)}",
            "meshlib needs real threads with event loops: its control plane and grpc's callbacks run on threads that "
            "gevent's hub does not schedule; do not monkey-patch these modules in this process",
        )
