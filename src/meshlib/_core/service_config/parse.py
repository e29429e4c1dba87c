"""Parsing of a gRPC service config into meshlib's own policies.

A field that grpc ignores is rejected: one that does not exist, or has no meaning where it is. Otherwise a protective
policy would be found missing on the day it is needed.

Differences from grpc:

- ``maxAttempts`` may be 100, in ``hedgingPolicy`` too; grpc reduces more than 5 to 5. ``backoffMultiplier`` is at least
  1.
- The wait before a retry is drawn from U[0, bound), Envoy's full jitter; gRFC A6 has U(0.8, 1.2) times the bound.
- ``timeout`` applies to calls that pass none; grpc takes the lesser of the two.
- ``perAttemptRecvTimeout`` needs no experimental argument, and ends an attempt as UNAVAILABLE.
- A whole ``tokenRatio`` is a number of tokens; C-core reads 1 as a thousandth.
- Without a ``retryPolicy`` the channel's ``retry`` applies, unless a less specific entry has one. Only the most
  specific entry counts, as in grpc, so that a method can be excluded from the policy of the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.policy import MethodPolicy
from meshlib._core.service_config.balancer import first_known, of_name
from meshlib._core.service_config.document import Node, load
from meshlib._core.service_config.methods import methods
from meshlib._core.service_config.schema import HEALTH, THROTTLING, TOP, fields, made

__all__ = ["ServiceConfig", "parse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """The settings of a service config; the channel supplies the missing ones.

    Args:
        methods: by ``"/pkg.Svc/Method"``, ``"/pkg.Svc/*"`` or ``"*"``.
        retry_throttling: None: not set.
        balancer: None: not set.
        health_check_service: the service whose health is watched (gRFC A17); ``""``: the whole server; None: none.
    """

    methods: Mapping[str, MethodPolicy] = field(default_factory=lambda: MappingProxyType({}))
    retry_throttling: RetryThrottling | None = None
    balancer: Balancer | None = None
    health_check_service: str | None = None


def parse(given: str | Mapping[str, Any], *, field: str = "service_config") -> ServiceConfig:
    """Parse a service config.

    Args:
        given: JSON text, or an equivalent mapping.
        field: the argument's name, where the paths in errors begin.

    Raises:
        ConfigError: meshlib cannot follow it exactly; the message names the path, the value and what is allowed.
    """
    top = fields(load(given, field), TOP)
    balancer = None
    # "The former will be used only if the latter is unset": gRFC A24 of the deprecated name.
    if "loadBalancingConfig" in top:
        balancer = first_known(top["loadBalancingConfig"])
    elif "loadBalancingPolicy" in top:
        balancer = of_name(top["loadBalancingPolicy"])
    throttling = top.get("retryThrottling")
    health = top.get("healthCheckConfig")
    return ServiceConfig(
        methods=methods(top["methodConfig"]) if "methodConfig" in top else MappingProxyType({}),
        retry_throttling=None if throttling is None else _throttling(throttling),
        balancer=balancer,
        health_check_service=None if health is None else _service(health),
    )


def _throttling(node: Node) -> RetryThrottling:
    given = fields(node, THROTTLING)
    return made(
        given,
        lambda: RetryThrottling(max_tokens=given["maxTokens"].whole(), token_ratio=given["tokenRatio"].number()),
    )


def _service(node: Node) -> str | None:
    name = fields(node, HEALTH).get("serviceName")
    return None if name is None else name.text()
