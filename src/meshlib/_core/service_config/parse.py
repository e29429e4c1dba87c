"""A gRPC service config in meshlib's own policies.

What grpc reads past is refused: a field that does not exist, or stands where it means nothing. Else a policy that was
meant to protect is found missing on the day it is needed.

Where meshlib means something else than grpc:

- ``maxAttempts`` may be 100, in ``hedgingPolicy`` too, where grpc makes 5 of more. ``backoffMultiplier`` is at least 1.
- The wait before a retry is drawn from U[0, bound), Envoy's full jitter, where gRFC A6 has U(0.8, 1.2) times the bound.
- ``timeout`` is for calls that pass none; grpc takes the lesser of the two.
- ``perAttemptRecvTimeout`` needs no experimental argument, and ends an attempt as if it had been UNAVAILABLE.
- A whole ``tokenRatio`` is a number of tokens; C-core takes 1 for a thousandth.
- A ``retryPolicy`` left out leaves the method with the channel's ``retry``, unless a less specific entry has one: of
  the entries the most specific counts alone, as in grpc, so that a method can be kept out of the policy of the others.
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
    """What a service config says; what it leaves out is the channel's to say.

    Args:
        methods: by ``"/pkg.Svc/Method"``, ``"/pkg.Svc/*"`` or ``"*"``.
        retry_throttling: None: nothing is said of it.
        balancer: None: nothing is said of it.
        health_check_service: what servers are asked for the health of (gRFC A17); ``""``: the server as a whole; None:
            nothing is asked.
    """

    methods: Mapping[str, MethodPolicy] = field(default_factory=lambda: MappingProxyType({}))
    retry_throttling: RetryThrottling | None = None
    balancer: Balancer | None = None
    health_check_service: str | None = None


def parse(given: str | Mapping[str, Any], *, field: str = "service_config") -> ServiceConfig:
    """Reads a service config.

    Args:
        given: JSON text, or the mapping that it stands for.
        field: what the argument is called; where the paths in errors begin.

    Raises:
        ConfigError: it is no service config that meshlib can follow to the letter; the message names the path, the
            value and what is allowed.
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
