"""The arguments of a channel: declared once, for both kinds of channel."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc

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

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from meshlib._core.balancing.contracts import Balancer
    from meshlib._core.discovery.contracts import Resolver

__all__ = ["ChannelArguments", "takes"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelArguments:
    """The arguments of :func:`meshlib.channel`, which describes them, and of :func:`meshlib.aio.channel`; unchecked."""

    target: str = field(kw_only=False)
    credentials: grpc.ChannelCredentials | None = None
    options: Iterable[tuple[str, Any]] | None = None
    compression: grpc.Compression | None = None
    interceptors: Iterable[Any] | None = ()
    attempt_interceptors: Iterable[Any] | None = ()
    resolver: "Resolver | None" = None
    dns: DnsPolicy = DnsPolicy()  # noqa: RUF009 - frozen
    balancer: "str | Balancer" = "round_robin"
    retry: RetryPolicy | HedgingPolicy | None = RetryPolicy()  # noqa: RUF009 - frozen
    retry_budget: RetryBudget | RetryThrottling | None = RetryBudget()  # noqa: RUF009 - frozen
    timeout: float | None = None
    methods: Mapping[str, MethodPolicy] | None = None
    service_config: str | Mapping[str, Any] | None = None
    outlier_detection: OutlierDetection | None = OutlierDetection()  # noqa: RUF009 - frozen
    circuit_breaker: CircuitBreaker | None = None
    telemetry: TelemetryPolicy = TelemetryPolicy()  # noqa: RUF009 - frozen
    tracer_provider: "TracerProvider | None" = None
    meter_provider: "MeterProvider | None" = None

    written: frozenset[str] = field(default=frozenset(), init=False)
    """Names of the keywords that the caller wrote, even with the default's value."""


def takes(
    declaration: Callable[P, ChannelArguments],
) -> Callable[[Callable[[ChannelArguments], R]], Callable[P, R]]:
    """Decorate a function of one :class:`ChannelArguments` to take its fields as arguments instead.

    Type checkers, editors, ``help()`` and ``inspect.signature`` show each with its type and default.
    """
    parameters = list(inspect.signature(declaration).parameters.values())
    signature = inspect.Signature(parameters)

    def decorate(make: Callable[[ChannelArguments], R]) -> Callable[P, R]:
        @wraps(make)
        def channel(*positional: P.args, **keywords: P.kwargs) -> R:
            try:
                signature.bind(*positional, **keywords)
            except TypeError as error:
                raise TypeError(f"{make.__name__}() {error}") from None
            arguments = declaration(*positional, **keywords)
            object.__setattr__(arguments, "written", frozenset(keywords) - {"target"})
            return make(arguments)

        shown: Any = channel
        returned = make.__annotations__["return"]
        shown.__signature__ = signature.replace(return_annotation=returned)
        shown.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": returned}
        return channel

    return decorate
