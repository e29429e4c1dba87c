"""Mistakes of configuration: an error before any call, with the argument, its value and the allowed values."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.e2e.load import SHELLS

import meshlib
from meshlib import aio


class Nothing:
    """An object without any expected method."""

    def __repr__(self) -> str:
        return "Nothing()"


BAD_ARGUMENTS: list[tuple[str, Any, str, str]] = [
    ("target", 5, "target=5", 'must be a string such as "svc-a"'),
    ("target", "", "target=''", "is empty"),
    ("target", "consul:///svc-a", "'consul'", "known: dns,"),
    ("target", "a:1,b:2", "target='a:1,b:2'", "write a list of hosts as static:///a:1,b:2"),
    ("target", "static:///a", "target='static:///a'", "needs a port"),
    ("target", "svc-a:99999", "target='svc-a:99999'", "from 1 to 65535"),
    ("credentials", "secret", "credentials=", "grpc.ChannelCredentials"),
    ("options", "x", "options='x'", "must be pairs"),
    ("options", [("grpc.keepalive_time_ms", "soon")], "options['grpc.keepalive_time_ms']='soon'", "a whole number"),
    ("options", [("grpc.service_config", "{")], "options['grpc.service_config']='{'", "must be JSON"),
    ("compression", "gzip", "compression='gzip'", "grpc.Compression"),
    ("interceptors", 5, "interceptors=5", "must be a list"),
    ("interceptors", [Nothing()], "interceptors=Nothing()", "UnaryUnaryClientInterceptor"),
    ("attempt_interceptors", [Nothing()], "attempt_interceptors=Nothing()", "UnaryUnaryClientInterceptor"),
    ("resolver", Nothing(), "resolver=Nothing()", "resolve(previous)"),
    ("dns", "10.0.0.1", "dns='10.0.0.1'", "must be a DnsPolicy"),
    ("balancer", "round-robin", "balancer='round-robin'", "did you mean 'round_robin'?"),
    ("balancer", Nothing(), "balancer=Nothing()", "picker(hosts, *, rng)"),
    ("retry", 3, "retry=3", "must be a RetryPolicy, a HedgingPolicy, or None"),
    ("retry_budget", 0.2, "retry_budget=0.2", "must be a RetryBudget, a RetryThrottling, or None"),
    ("timeout", "1", "timeout='1'", "a number of seconds, more than 0"),
    ("timeout", 0, "timeout=0", "a number of seconds, more than 0"),
    ("methods", {"Get": meshlib.MethodPolicy()}, "methods='Get'", '"/package.Service/Method"'),
    ("methods", {"/p.S/M": 3}, "methods['/p.S/M']=3", "must be a MethodPolicy"),
    ("service_config", "{", "service_config='{'", "must be JSON"),
    ("service_config", {"retryPolicy": {}}, "service_config.retryPolicy", "belongs in methodConfig[]"),
    ("outlier_detection", 5, "outlier_detection=5", "must be an OutlierDetection, or None"),
    ("circuit_breaker", 5, "circuit_breaker=5", "must be a CircuitBreaker, or None"),
    ("telemetry", None, "telemetry=None", "must be a TelemetryPolicy"),
    ("tracer_provider", Nothing(), "tracer_provider=Nothing()", "must be an OpenTelemetry TracerProvider"),
    ("meter_provider", Nothing(), "meter_provider=Nothing()", "must be an OpenTelemetry MeterProvider"),
]


@pytest.mark.parametrize(
    ("argument", "value", "told", "allowed"),
    BAD_ARGUMENTS,
    ids=[f"{name}={value}" for name, value, *_ in BAD_ARGUMENTS],
)
@pytest.mark.parametrize("make", [meshlib.channel, aio.channel], ids=SHELLS)
def test_a_bad_argument_is_refused_at_construction(
    make: Callable[..., Any], argument: str, value: Any, told: str, allowed: str
) -> None:
    """The message has the argument, its value and the allowed values."""
    with pytest.raises(meshlib.ConfigError) as caught:
        make(**{"target": "svc-a", argument: value})
    assert told in str(caught.value)
    assert allowed in str(caught.value)


def test_what_was_given_for_credentials_is_not_repeated() -> None:
    """The value may be a password, and the message goes to a log."""
    with pytest.raises(meshlib.ConfigError) as caught:
        meshlib.channel("svc-a", credentials="secret")  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_every_argument_is_tried() -> None:
    """The table above has every argument of the factories, and both factories have the same ones."""
    arguments = set(meshlib.channel.__annotations__) - {"return"}
    assert arguments == {name for name, *_ in BAD_ARGUMENTS}
    assert arguments == set(aio.channel.__annotations__) - {"return"}


BAD_FIELDS: list[tuple[type, dict[str, Any], str, str]] = [
    (meshlib.RetryPolicy, {"max_attempts": 1}, "max_attempts=1", "from 2 to 100"),
    (meshlib.RetryPolicy, {"initial_backoff": 0}, "initial_backoff=0", "more than 0"),
    (meshlib.RetryPolicy, {"max_backoff": "1"}, "max_backoff='1'", "more than 0"),
    (meshlib.RetryPolicy, {"backoff_multiplier": 0.5}, "backoff_multiplier=0.5", "from 1 to 1000"),
    (
        meshlib.RetryPolicy,
        {"retryable_status_codes": {"UNAVAILIBLE"}},
        "retryable_status_codes='UNAVAILIBLE'",
        "did you mean 'UNAVAILABLE'?",
    ),
    (meshlib.RetryPolicy, {"retryable_status_codes": {"OK"}}, "retryable_status_codes='OK'", "cannot be retried"),
    (meshlib.RetryPolicy, {"per_attempt_timeout": 0}, "per_attempt_timeout=0", "more than 0"),
    (meshlib.RetryPolicy, {"unsent_only": "yes"}, "unsent_only='yes'", "True or False"),
    (meshlib.RetryPolicy, {"buffer_size": -1}, "buffer_size=-1", "from 0"),
    (meshlib.RetryPolicy, {"stop": 3}, "stop=3", "tenacity"),
    (meshlib.HedgingPolicy, {"max_attempts": 101}, "max_attempts=101", "from 2 to 100"),
    (meshlib.HedgingPolicy, {"hedging_delay": -1}, "hedging_delay=-1", "0 or more"),
    (meshlib.HedgingPolicy, {"non_fatal_status_codes": "UNAVAILABLE"}, "non_fatal_status_codes=", "must be a set"),
    (meshlib.RetryBudget, {"budget_percent": 101}, "budget_percent=101", "from 0 to 100"),
    (meshlib.RetryBudget, {"min_retry_concurrency": -1}, "min_retry_concurrency=-1", "from 0"),
    (meshlib.RetryThrottling, {"max_tokens": 0, "token_ratio": 0.1}, "max_tokens=0", "from 1 to 1000"),
    (meshlib.OutlierDetection, {"interval": 0}, "interval=0", "more than 0"),
    (meshlib.OutlierDetection, {"max_ejection_percent": 101}, "max_ejection_percent=101", "from 0 to 100"),
    (meshlib.CircuitBreaker, {"max_requests": -1}, "max_requests=-1", "from 0"),
    (meshlib.MethodPolicy, {"retry": 3}, "retry=3", "must be a RetryPolicy"),
    (meshlib.MethodPolicy, {"timeout": 0}, "timeout=0", "more than 0"),
    (meshlib.MethodPolicy, {"wait_for_ready": "yes"}, "wait_for_ready='yes'", "True or False"),
    (meshlib.DnsPolicy, {"family": "v5"}, "family='v5'", "known: all, auto, v4, v6"),
    (meshlib.DnsPolicy, {"nameservers": "10.0.0.1"}, "nameservers='10.0.0.1'", "must be a list"),
    (meshlib.DnsPolicy, {"timeout": 0}, "timeout=0", "above 0"),
    (meshlib.DnsPolicy, {"min_ttl": 60.0}, "max_ttl=30.0", "not be below min_ttl=60.0"),
    (meshlib.DnsPolicy, {"allow_empty": 1}, "allow_empty=1", "True or False"),
]


@pytest.mark.parametrize(("policy", "fields", "told", "allowed"), BAD_FIELDS)
def test_a_bad_field_is_refused_at_construction(policy: type, fields: dict[str, Any], told: str, allowed: str) -> None:
    """Policies are checked when they are made, with the same message."""
    with pytest.raises(meshlib.ConfigError) as caught:
        policy(**fields)
    assert told in str(caught.value)
    assert allowed in str(caught.value)


def test_an_error_of_configuration_is_a_value_error() -> None:
    """``except ValueError`` around the set-up of a program catches it."""
    assert issubclass(meshlib.ConfigError, ValueError)
