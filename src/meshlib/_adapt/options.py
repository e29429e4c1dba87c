"""Channel options: the user's, and those of a subchannel."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from meshlib._core.errors import ConfigError

__all__ = [
    "Options",
    "balancer",
    "checked",
    "for_subchannel",
    "health_checked",
    "native_target",
    "numbered",
    "service_config",
    "without_effect",
    "without_retries",
]

Options = tuple[tuple[str, Any], ...]

LB_POLICY: Final = "grpc.lb_policy_name"
_MOST_BACK_OFF: Final = 5000
_LONGEST: Final = ("grpc.max_reconnect_backoff_ms", _MOST_BACK_OFF)
DEFAULTS: Final[Options] = (
    # Reconnects after a disconnect; pick_first would stay idle.
    (LB_POLICY, "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the timeout of one connection attempt.
    ("grpc.min_reconnect_backoff_ms", 5000),
    _LONGEST,
    # Addresses do not match the names in no_proxy, so an outbound proxy would get internal connections.
    ("grpc.enable_http_proxy", 0),
    # After 30 minutes without a call C-core would close the connection, only to reconnect.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
)
"""Options of a subchannel, unless the user's override them."""

# Either names the server; grpc uses the second for the first if it is alone.
_NAMING: Final = frozenset({"grpc.default_authority", "grpc.ssl_target_name_override"})
BALANCERS: Final = frozenset({"pick_first", "round_robin"})
"""Values of ``grpc.lb_policy_name`` that are balancers of meshlib, too."""
_NO_POLICY: Final = "has no effect: it configures a balancing policy of grpc, and meshlib uses its own; use balancer="
WITHOUT_EFFECT: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    # For each option: why it can have no effect, and for which values that matters.
    "grpc.client_idle_timeout_ms": (
        "has no effect: a channel reconnects as soon as a connection ends; close the channel instead",
        lambda value: not isinstance(value, int) or value < 2**31 - 1,
    ),
    "grpc.dns_ares_query_timeout": ("has no effect: meshlib resolves names itself; use dns=DnsPolicy(timeout=)", bool),
    "grpc.dns_enable_srv_queries": ("has no effect: meshlib resolves names itself; use a target srv:///", bool),
    "grpc.dns_min_time_between_resolutions_ms": (
        "has no effect: meshlib resolves names itself; use dns=DnsPolicy(min_ttl=, max_ttl=)",
        lambda _: True,
    ),
    "grpc.grpclb_call_timeout_ms": (_NO_POLICY, lambda _: True),
    "grpc.grpclb_fallback_timeout_ms": (_NO_POLICY, lambda _: True),
    "grpc.experimental.grpclb_channel_args": (_NO_POLICY, lambda _: True),
    "grpc.lb.ring_hash.ring_size_cap": (_NO_POLICY, lambda _: True),
    LB_POLICY: ("must be pick_first or round_robin; for other balancers use balancer=", lambda _: True),
    "grpc.priority_failover_timeout_ms": (_NO_POLICY, lambda _: True),
    "grpc.service_config_disable_resolution": (
        "has no effect: meshlib ignores service configs in DNS; use service_config=",
        lambda value: not value,
    ),
}
"""Client options that C-core follows on a channel to a name, and cannot on one to a single address."""
_RETRIES: Final = ("retryPolicy", "hedgingPolicy")
SERVICE_CONFIG: Final = "grpc.service_config"
_NUMBERS: Final = ("_ms", "_message_length", "_size", "grpc.enable_", "max_concurrent_streams", "_calls", "_data")


def checked(options: Any, *, as_grpc: bool = False) -> Options:
    """Return the user's options as a tuple of pairs.

    Args:
        options: of the user.
        as_grpc: set by the replacements of grpc's own factories: names may be bytes, and grpc checks the values.

    Raises:
        ConfigError: it is not a sequence of pairs of a name and a value grpc accepts.
    """
    if options is None:
        return ()
    if isinstance(options, str | bytes):
        raise ConfigError("options", options, 'must be pairs such as [("grpc.keepalive_time_ms", 10000)]')
    try:
        pairs = tuple((name, value) for name, value in options)
    except (TypeError, ValueError):
        raise ConfigError("options", options, 'must be pairs such as [("grpc.keepalive_time_ms", 10000)]') from None
    if as_grpc:
        return tuple((name.decode() if isinstance(name, bytes) else name, value) for name, value in pairs)
    for name, value in pairs:
        if not isinstance(name, str) or not name:
            raise ConfigError("options", name, "the name of a channel option must be a string")
        if isinstance(value, float) or value is None:
            raise ConfigError(f"options[{name!r}]", value, "must be a whole number, str or bytes")
        if name.startswith("grpc.") and name.endswith(_NUMBERS) and not isinstance(value, int):
            raise ConfigError(f"options[{name!r}]", value, "must be a whole number")
    return pairs


def service_config(options: Options) -> tuple[Any, Options]:
    """Return the service config among the user's options, or None, and the other options."""
    text = next((value for name, value in reversed(options) if name == SERVICE_CONFIG), None)
    return text, tuple(pair for pair in options if pair[0] != SERVICE_CONFIG)


def without_retries(options: Options) -> bool:
    """Whether the user's options turn retries off, as in grpc."""
    return next((value for name, value in reversed(options) if name == "grpc.enable_retries"), 1) == 0


def balancer(options: Options) -> tuple[str | None, Options]:
    """Return the balancer that the user's options name, or None, and the other options."""
    named = next((value for name, value in reversed(options) if name == LB_POLICY), None)
    text = named.decode(errors="replace") if isinstance(named, bytes) else named
    if text not in BALANCERS:
        return None, options
    return text, tuple(pair for pair in options if pair[0] != LB_POLICY)


def without_effect(options: Options) -> list[tuple[str, Any, str]]:
    """Return the user's options that can have no effect: name, value and reason."""
    found = []
    for name, value in options:
        reason, matters = WITHOUT_EFFECT.get(name, ("", bool))
        if reason and matters(value):
            found.append((name, value, reason))
    return found


def for_subchannel(options: Options, authority: str | None, *, alternatives: bool = False) -> Options:
    """Return the options of the channel to one endpoint.

    Args:
        options: the user's, checked.
        authority: ``:authority`` and the TLS name, unless the user's options set them.
        alternatives: whether the endpoint has several addresses. pick_first connects to one of them (gRFC A61); any
            other policy would treat each as a host.
    """
    if alternatives:
        options = (*(pair for pair in options if pair[0] != LB_POLICY), (LB_POLICY, "pick_first"))
    given = dict(options)
    own = [pair for pair in DEFAULTS if pair[0] not in given]
    if "grpc.http_proxy" in given:
        own = [pair for pair in own if pair[0] != "grpc.enable_http_proxy"]
    first = given.get("grpc.initial_reconnect_backoff_ms")
    if isinstance(first, int) and first > _MOST_BACK_OFF and _LONGEST in own:
        own[own.index(_LONGEST)] = (_LONGEST[0], first)
    if authority is not None and not given.keys() & _NAMING:
        own.append(("grpc.default_authority", authority))
    users = tuple((name, _without_retries(value) if name == SERVICE_CONFIG else value) for name, value in options)
    return (*own, *users)


def numbered(options: Options, number: int) -> Options:
    """Make ``options`` equal only to those with the same ``number``: C-core gives channels with equal options one
    connection, and its backoff."""
    return (*options, ("meshlib.dials", number)) if number else options


def native_target(address: str, *alternatives: str) -> str:
    """Return the target that makes C-core connect to ``address`` or a working alternative, in order, without a lookup.

    It is a URI: C-core decodes it once. A target has addresses of one family, so IPv4 ones among several are written as
    IPv6. C-core connects to, and reports, the IPv4 address.
    """
    if address.startswith("unix:"):
        return f"unix:{_encoded(address.removeprefix('unix:'))}"
    if address.startswith(("unix-abstract:", "vsock:")):
        return address
    if alternatives:
        return f"ipv6:{','.join(_encoded(_as_ipv6(each)) for each in (address, *alternatives))}"
    return f"ipv6:{_encoded(address)}" if address.startswith("[") else f"ipv4:{address}"


def _as_ipv6(address: str) -> str:
    if address.startswith("["):
        return address
    ip, _, port = address.rpartition(":")
    return f"[::ffff:{ip}]:{port}"


def _encoded(text: str) -> str:
    """Percent-encode ``text`` as the path of a URI (RFC 3986)."""
    return quote(text, safe="/:[],@!$&'()*+;=~")


def health_checked(service: str) -> tuple[str, str]:
    """Return the option that makes C-core watch the health of ``service`` at each server (gRFC A17)."""
    return SERVICE_CONFIG, json.dumps({"healthCheckConfig": {"serviceName": service}})


def _without_retries(text: Any) -> Any:
    """Remove retries from a service config: C-core's would multiply meshlib's. An unreadable one, which only grpc's own
    factories accept, is left to grpc."""
    try:
        config = json.loads(text)
    except (TypeError, ValueError):
        return text
    if not isinstance(config, dict):
        return text
    methods: Sequence[Any] = config.get("methodConfig") or ()
    for method in methods:
        if isinstance(method, dict):
            for name in _RETRIES:
                method.pop(name, None)
    config.pop("retryThrottling", None)
    config.pop("loadBalancingConfig", None)
    return json.dumps(config)
