"""Envoy's configuration, made from a case's settings: one listener and one cluster a case, with Envoy's field names.

Everything else is Envoy's default, except three things that every gRPC service needs: HTTP/2 on both sides, no timeout
of 15 s, and `grpc-timeout` obeyed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy.extensions."

PREVIOUS_HOSTS: Json = {
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": _TYPE + "retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": "10",
}
"""Fields of a ``retry_policy`` that send a retry to an untried host. A random choice is rejected so often that of three
hosts the same one is chosen again once in 3**11 retries."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """The settings of a case, as JSON of Envoy's protobuf messages.

    Args:
        lb_policy: ``round_robin``, ``least_request`` or ``random``: the extension of that name.
        lb_fields: fields of its configuration.
        retry_policy: ``envoy.config.route.v3.RetryPolicy``; None: Envoy retries nothing.
        route: further fields of ``envoy.config.route.v3.RouteAction``; None removes a default one.
        thresholds: ``envoy.config.cluster.v3.CircuitBreakers.Thresholds``.
        outlier_detection: ``envoy.config.cluster.v3.OutlierDetection``; None: off.
        cluster: further fields of ``envoy.config.cluster.v3.Cluster``.
    """

    lb_policy: str = "round_robin"
    lb_fields: Json = field(default_factory=dict)
    retry_policy: Json | None = None
    route: Json = field(default_factory=dict)
    thresholds: Json | None = None
    outlier_detection: Json | None = None
    cluster: Json = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Host:
    """The endpoint of a server.

    Args:
        address: ``IP:port``, or ``name:port`` for a DNS name.
        weight: Its share.
        priority: 0 is tried first.
    """

    address: str
    weight: int = 1
    priority: int = 0


def bootstrap(services: Mapping[str, tuple[Service, Sequence[Host]]], *, name_server: str | None = None) -> Json:
    """The whole configuration: a service and its hosts by name, and the name server for hosts with names."""
    return {
        "admin": {"address": _address("127.0.0.1:0")},
        "static_resources": {
            "listeners": [_listener(name, service) for name, (service, _) in services.items()],
            "clusters": [_cluster(name, service, hosts, name_server) for name, (service, hosts) in services.items()],
        },
    }


def _address(address: str) -> Json:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _listener(name: str, service: Service) -> Json:
    route: Json = {"cluster": name, "timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}
    if service.retry_policy is not None:
        route["retry_policy"] = service.retry_policy
    route = {field: value for field, value in (route | service.route).items() if value is not None}
    manager: Json = {
        "@type": _TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}],
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _TYPE + "filters.http.router.v3.Router"}}
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": _address("127.0.0.1:0"), "filter_chains": [{"filters": filters}]}


def _cluster(name: str, service: Service, hosts: Sequence[Host], name_server: str | None) -> Json:
    message = service.lb_policy.title().replace("_", "")
    cluster: Json = {
        "name": name,
        "type": "STATIC",
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": f"envoy.load_balancing_policies.{service.lb_policy}",
                        "typed_config": {
                            "@type": f"{_TYPE}load_balancing_policies.{service.lb_policy}.v3.{message}",
                            **service.lb_fields,
                        },
                    }
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "priority": priority,
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(host.address)}, "load_balancing_weight": host.weight}
                        for host in hosts
                        if host.priority == priority
                    ],
                }
                for priority in sorted({host.priority for host in hosts})
            ],
        },
    }
    if name_server is not None and any(host.address[0].isalpha() for host in hosts):
        cluster |= _discovery(name_server)
    if service.thresholds is not None:
        cluster["circuit_breakers"] = {"thresholds": [service.thresholds]}
    if service.outlier_detection is not None:
        cluster["outlier_detection"] = service.outlier_detection
    return cluster | service.cluster


def _discovery(name_server: str) -> Json:
    """Names are resolved again at their TTL, as by meshlib; the default is every 5 s."""
    resolver = {
        "@type": _TYPE + "network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        "resolvers": [_address(name_server)],
        "dns_resolver_options": {"no_default_search_domain": True},
    }
    return {
        "type": "STRICT_DNS",
        "respect_dns_ttl": True,
        "dns_refresh_rate": "1s",
        "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": resolver},
    }
