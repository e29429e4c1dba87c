"""The fields of a service config, by place. Any other is rejected, with a suggestion."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Final, TypeVar

from meshlib._core.errors import ConfigError
from meshlib._core.service_config.document import Node

__all__ = ["BALANCER", "HEALTH", "HEDGING", "METHOD", "NAME", "RETRY", "THROTTLING", "TOP", "fields", "made"]

T = TypeVar("T")

TOP: Final = ""
METHOD: Final = "methodConfig[]"
NAME: Final = "methodConfig[].name[]"
RETRY: Final = "methodConfig[].retryPolicy"
HEDGING: Final = "methodConfig[].hedgingPolicy"
THROTTLING: Final = "retryThrottling"
HEALTH: Final = "healthCheckConfig"
BALANCER: Final = "loadBalancingConfig[]"

_BACKOFF: Final = ("maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes")
_TOKENS: Final = ("maxTokens", "tokenRatio")
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    TOP: ("loadBalancingConfig", "loadBalancingPolicy", "methodConfig", "retryThrottling", "healthCheckConfig"),
    METHOD: ("name", "waitForReady", "timeout", "retryPolicy", "hedgingPolicy"),
    NAME: ("service", "method"),
    RETRY: (*_BACKOFF, "perAttemptRecvTimeout"),
    HEDGING: ("maxAttempts", "hedgingDelay", "nonFatalStatusCodes"),
    THROTTLING: _TOKENS,
    HEALTH: ("serviceName",),
    f"{BALANCER}.least_request": ("choiceCount",),
    f"{BALANCER}.pick_first": ("shuffleAddressList",),
    f"{BALANCER}.random": (),
    f"{BALANCER}.round_robin": (),
}
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    METHOD: ("name",),
    RETRY: _BACKOFF,
    HEDGING: ("maxAttempts",),
    THROTTLING: _TOKENS,
}
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "maxRequestMessageBytes": "is not supported by meshlib, which has no limit per method; "
    "use the channel option grpc.max_send_message_length",
    "maxResponseMessageBytes": "is not supported by meshlib, which has no limit per method; "
    "use the channel option grpc.max_receive_message_length",
    "connectionScaling": "is not supported by meshlib, which keeps one connection to each host",
}


def fields(node: Node, place: str) -> dict[str, Node]:
    """Return the fields of the object at ``node``, by the rules for its ``place``."""

    def problem(name: str) -> str:
        if name in _UNSUPPORTED:
            return _UNSUPPORTED[name]
        known = _FIELDS[place]
        return f"unknown field; known: {', '.join(known) or 'none'}{_advice(name, known)}"

    return node.fields(_FIELDS[place], _REQUIRED.get(place, ()), problem)


def made(given: Mapping[str, Node], make: Callable[[], T]) -> T:
    """Call ``make``; report a field that a policy rejects by its path and as written.

    A policy has the fields of the service config in snake_case.
    """
    try:
        return make()
    except ConfigError as error:
        written = given.get(re.sub("_(.)", lambda match: match[1].upper(), error.field))
        if written is None:
            raise
        raise written.refused(error.allowed) from None


def _advice(name: str, known: tuple[str, ...]) -> str:
    """Suggest where an existing field belongs, else a similar name."""
    homes = [place for place, names in _FIELDS.items() if name in names]
    if homes:
        return f"; it belongs in {' or '.join(home or 'the service config itself' for home in homes)}"
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
