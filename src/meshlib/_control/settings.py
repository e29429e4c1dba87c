"""The checked arguments of a channel, from which both kinds of channel are built."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from meshlib._adapt.grpcio import transport
from meshlib._adapt.options import (
    LB_POLICY,
    SERVICE_CONFIG,
    Options,
    checked,
    for_subchannel,
    native_target,
    numbered,
    without_effect,
    without_retries,
)
from meshlib._adapt.options import balancer as balancer_of
from meshlib._control.balancers import REGISTRY as BALANCERS
from meshlib._control.configs import configured, either, with_service_config
from meshlib._control.notices import announce, unheeded
from meshlib._control.plugins import REGISTRY as RESOLVERS
from meshlib._control.sources import Source, source
from meshlib._core.balancing.builtin import BuiltinBalancer
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.discovery.contracts import Resolver
from meshlib._core.errors import ConfigError
from meshlib._core.host import HostEntry
from meshlib._core.policy import (
    CircuitBreaker,
    DnsPolicy,
    HedgingPolicy,
    MethodPolicy,
    MethodTable,
    OutlierDetection,
    RetryBudget,
    RetryPolicy,
    RetryThrottling,
    TelemetryPolicy,
)
from meshlib._core.sharing import Sharing
from meshlib._core.target import Target, parse_target

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Settings", "settle"]

_GEVENT: Final = ("threading", "queue", "select", "selectors")
"""Modules that meshlib's threads need unpatched; gevent may patch some and not others."""

_KINDS: Final = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
UNSENT_ONLY: Final = RetryPolicy(unsent_only=True)
"""Retries behind grpc's own factories: like grpc, only calls that provably never ran. An application that swapped the
factory asked for no more, and a library may rely on it (``retry=None`` of a Firestore client, an etcd transaction)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The checked arguments of ``meshlib.channel``, from which a channel is built."""

    target: Target
    source: Source
    balancer: Balancer
    credentials: grpc.ChannelCredentials | None = None
    options: Options = ()
    compression: grpc.Compression | None = None
    interceptors: tuple[Any, ...] = ()
    attempt_interceptors: tuple[Any, ...] = ()
    methods: MethodTable = field(default_factory=MethodTable)
    policies: tuple[str, ...] = ()
    """The keys of ``methods=``, without those of a service config."""
    retry_budget: RetryBudget | None = field(default_factory=RetryBudget)
    retry_throttling: RetryThrottling | None = None
    outlier_detection: OutlierDetection | None = field(default_factory=OutlierDetection)
    circuit_breaker: CircuitBreaker | None = None
    telemetry: TelemetryPolicy = field(default_factory=TelemetryPolicy)
    tracer_provider: "TracerProvider | None" = None
    meter_provider: "MeterProvider | None" = None

    @property
    def builds_aside(self) -> bool:
        """Whether the balancer is the user's own, and may be slow to make a picker."""
        balancer = self.balancer.balancer if isinstance(self.balancer, Priorities) else self.balancer
        return BuiltinBalancer not in type(balancer).__bases__  # a subclass of an application may be slow

    def subchannel(self, host: HostEntry, sharing: Sharing | None = None) -> tuple[str, Options]:
        """Return the target and the options of grpc's channel to ``host``.

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


def settle(
    target: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Iterable[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Iterable[Any] | None = (),
    attempt_interceptors: Iterable[Any] | None = (),
    resolver: Resolver | None = None,
    dns: DnsPolicy | None = None,
    balancer: str | Balancer = "round_robin",
    retry: RetryPolicy | HedgingPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
    retry_budget: RetryBudget | RetryThrottling | None = RetryBudget(),  # noqa: B008 - frozen
    timeout: float | None = None,
    methods: Mapping[str, MethodPolicy] | None = None,
    service_config: str | Mapping[str, Any] | None = None,
    outlier_detection: OutlierDetection | None = OutlierDetection(),  # noqa: B008 - frozen
    circuit_breaker: CircuitBreaker | None = None,
    telemetry: TelemetryPolicy = TelemetryPolicy(),  # noqa: B008 - frozen
    tracer_provider: "TracerProvider | None" = None,
    meter_provider: "MeterProvider | None" = None,
    as_grpc: bool = False,
    aio: bool = False,
) -> Settings:
    """Check the arguments of a channel.

    Args:
        as_grpc: behind grpc's own factories: grpc's targets and interceptors are accepted, and grpc reports bad ones
            at the call. Only unsent attempts are retried, unless a service config says otherwise.
        aio: for an asyncio channel, whose interceptors have other classes.

    Raises:
        ConfigError: an argument cannot be used; the message names it, its value and what is allowed.
    """
    _refuse_gevent()
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise ConfigError(
            # Only the type: a value given by mistake may be a key.
            "credentials",
            type(credentials).__name__,
            "must be grpc.ChannelCredentials, or None for a plaintext connection",
        )
    if compression is not None and not isinstance(compression, grpc.Compression):
        raise ConfigError("compression", compression, "must be a grpc.Compression")
    if retry_budget is not None and not isinstance(retry_budget, RetryBudget | RetryThrottling):
        raise ConfigError(
            "retry_budget", retry_budget, "must be a RetryBudget, a RetryThrottling, or None for no limit"
        )
    if outlier_detection is not None and not isinstance(outlier_detection, OutlierDetection):
        raise ConfigError("outlier_detection", outlier_detection, "must be an OutlierDetection, or None for none")
    if circuit_breaker is not None and not isinstance(circuit_breaker, CircuitBreaker):
        raise ConfigError("circuit_breaker", circuit_breaker, "must be a CircuitBreaker, or None for no limits")
    if not isinstance(telemetry, TelemetryPolicy):
        raise ConfigError("telemetry", telemetry, "must be a TelemetryPolicy")
    if dns is not None and not isinstance(dns, DnsPolicy):
        raise ConfigError("dns", dns, "must be a DnsPolicy")
    if tracer_provider is not None and not callable(getattr(tracer_provider, "get_tracer", None)):
        raise ConfigError(
            "tracer_provider", tracer_provider, "must be an OpenTelemetry TracerProvider, or None for the global one"
        )
    if meter_provider is not None and not callable(getattr(meter_provider, "get_meter", None)):
        raise ConfigError(
            "meter_provider", meter_provider, "must be an OpenTelemetry MeterProvider, or None for the global one"
        )
    secure = transport(credentials) != "plaintext"
    parsed = parse_target(
        target,
        secure=secure,
        lenient=as_grpc,
        any_scheme=resolver is not None,
        schemes=RESOLVERS,
    )
    given = checked(options, as_grpc=as_grpc)
    named = None
    if not parsed.native:
        named, given = balancer_of(given)
        _unheeded(given, parsed, as_grpc=as_grpc)
        if named is not None and balancer != "round_robin":
            raise ConfigError("balancer", balancer, f"is also set in options[{LB_POLICY!r}]; set only one of them")
    config, given = configured(service_config, given, target=parsed, as_grpc=as_grpc)
    table = MethodTable(
        retry=UNSENT_ONLY if as_grpc else retry, timeout=timeout, methods=with_service_config(methods, config)
    )
    announce(parsed, given, secure=secure)
    return Settings(
        target=parsed,
        source=source(parsed, dns or DnsPolicy(), resolver),
        balancer=either("balancer", balancer, "round_robin", BALANCERS.resolve(named or balancer), config.balancer),
        credentials=credentials,
        options=given,
        compression=compression,
        interceptors=tuple(interceptors or ()) if as_grpc else _interceptors("interceptors", interceptors, aio=aio),
        attempt_interceptors=_interceptors("attempt_interceptors", attempt_interceptors, aio=aio),
        methods=table.without_retries() if as_grpc and without_retries(given) else table,
        policies=tuple(methods or ()),
        retry_budget=retry_budget if isinstance(retry_budget, RetryBudget) else None,
        retry_throttling=_throttling(retry_budget, config.retry_throttling),
        outlier_detection=outlier_detection,
        circuit_breaker=circuit_breaker,
        telemetry=telemetry,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )


def _unheeded(options: Options, target: Target, *, as_grpc: bool) -> None:
    """Reject options that can have no effect; behind grpc's own factories, log them instead."""
    for name, value, reason in without_effect(options):
        if not as_grpc:
            raise ConfigError(f"options[{name!r}]", value, reason)
        unheeded(target, name, value, reason)


def _throttling(argument: RetryBudget | RetryThrottling | None, said: RetryThrottling | None) -> RetryThrottling | None:
    """Return the throttling; that of the service config applies beside a budget, not beside another one."""
    if not isinstance(argument, RetryThrottling):
        return said
    return either("retry_budget", argument, None, argument, said)


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
