"""Service configs: the effect of the whole, and the error texts for everything that is rejected."""

import math
from typing import Any

import pytest
from tests.core.service_config.configs import NUMBER, OBJECT, TEXT, WHOLE, hedging, method, refusal, retry, throttling

from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.errors import ConfigError
from meshlib._core.policy import HedgingPolicy, MethodPolicy, RetryPolicy
from meshlib._core.service_config import ServiceConfig, parse


def test_all_of_it() -> None:
    """Each part becomes meshlib's own policy."""
    assert parse("""{
        "loadBalancingConfig": [{"least_request_experimental": {"choiceCount": 3}}],
        "methodConfig": [
            {"name": [{"service": "shop.Orders", "method": "Pay"}], "timeout": "2.5s"},
            {"name": [{"service": "shop.Orders"}, {"service": "shop.Carts"}], "hedgingPolicy": {
                "maxAttempts": 4, "hedgingDelay": ".5s", "nonFatalStatusCodes": ["unavailable", 13]
            }},
            {"name": [{}], "waitForReady": true, "retryPolicy": {
                "maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "Aborted", 8]
            }}
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        "healthCheckConfig": {"serviceName": "shop.Orders"}
    }""") == ServiceConfig(
        methods={
            "/shop.Orders/Pay": MethodPolicy(retry=None, timeout=2.5, wait_for_ready=False),
            **dict.fromkeys(
                ("/shop.Orders/*", "/shop.Carts/*"),
                MethodPolicy(
                    retry=HedgingPolicy(
                        max_attempts=4, hedging_delay=0.5, non_fatal_status_codes=frozenset({"UNAVAILABLE", "INTERNAL"})
                    ),
                    wait_for_ready=False,
                ),
            ),
            "*": MethodPolicy(
                retry=RetryPolicy(
                    max_attempts=5,
                    initial_backoff=0.1,
                    max_backoff=1.0,
                    backoff_multiplier=2,
                    retryable_status_codes=frozenset({"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED"}),
                ),
                wait_for_ready=True,
            ),
        },
        retry_throttling=RetryThrottling(max_tokens=10, token_ratio=0.1),
        balancer=LeastRequest(choice_count=3),
        health_check_service="shop.Orders",
    )


@pytest.mark.parametrize("given", ["{}", {}, '{"methodConfig": null}', {"methodConfig": [], "healthCheckConfig": {}}])
def test_nothing_of_it(given: Any) -> None:
    """An absent or null part leaves the channel's setting."""
    made = parse(given)
    assert made == ServiceConfig()
    assert dict(made.methods) == {}
    assert (made.retry_throttling, made.balancer, made.health_check_service) == (None, None, None)


# --- the rest of it ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (throttling(maxTokens=0), f".maxTokens=0: {WHOLE} from 1 to 1000"),
        (throttling(maxTokens=1001), f".maxTokens=1001: {WHOLE} from 1 to 1000"),
        (throttling(maxTokens=1.5), f".maxTokens=1.5: {WHOLE}"),
        (throttling(tokenRatio=0), f".tokenRatio=0: {NUMBER} from 0.001 to 1000"),
        (throttling(tokenRatio="x"), f".tokenRatio='x': {NUMBER}"),
        (throttling(tokenRatio=None), ".tokenRatio=None: is required"),
        (
            throttling(tokenRation=1),
            ".tokenRation=1: unknown field; known: maxTokens, tokenRatio; did you mean 'tokenRatio'?",
        ),
        ({"retryThrottling": []}, f"=[]: {OBJECT}"),
    ],
)
def test_throttling_that_is_none(given: Any, said: str) -> None:
    """A6's ranges, which C-core does not enforce."""
    assert refusal(given) == f"retryThrottling{said}"


def test_health_checks() -> None:
    """gRFC A17: the empty name means the whole server, no name means no check."""
    assert parse({"healthCheckConfig": {"serviceName": ""}}).health_check_service == ""
    assert parse({"healthCheckConfig": {"serviceName": None}}).health_check_service is None
    assert refusal({"healthCheckConfig": {"serviceName": 1}}) == f"healthCheckConfig.serviceName=1: {TEXT}"


TOP = "known: loadBalancingConfig, loadBalancingPolicy, methodConfig, retryThrottling, healthCheckConfig"
BELOW = "known: name, waitForReady, timeout, retryPolicy, hedgingPolicy"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retryPolicy": 1}, f"retryPolicy=1: unknown field; {TOP}; it belongs in methodConfig[]"),
        ({"maxTokens": 1}, f"maxTokens=1: unknown field; {TOP}; it belongs in retryThrottling"),
        (
            {"maxAttempts": 1},
            (
                f"maxAttempts=1: unknown field; {TOP}; "
                "it belongs in methodConfig[].retryPolicy or methodConfig[].hedgingPolicy"
            ),
        ),
        ({"method_config": 1}, f"method_config=1: unknown field; {TOP}; did you mean 'methodConfig'?"),
        ({"MethodConfig": 1}, f"MethodConfig=1: unknown field; {TOP}; did you mean 'methodConfig'?"),
        ({"zzz": None}, f"zzz=None: unknown field; {TOP}"),
        (
            method(retryThrottling=1),
            (f"methodConfig[0].retryThrottling=1: unknown field; {BELOW}; it belongs in the service config itself"),
        ),
        (
            retry(maxAttemps=3),
            (
                "methodConfig[0].retryPolicy.maxAttemps=3: unknown field; known: maxAttempts, "
                "initialBackoff, maxBackoff, backoffMultiplier, retryableStatusCodes, perAttemptRecvTimeout; "
                "did you mean 'maxAttempts'?"
            ),
        ),
        (
            hedging(maxBackoff="1s"),
            (
                "methodConfig[0].hedgingPolicy.maxBackoff='1s': unknown field; known: maxAttempts, "
                "hedgingDelay, nonFatalStatusCodes; it belongs in methodConfig[].retryPolicy"
            ),
        ),
        (
            method(maxResponseMessageBytes=1),
            (
                "methodConfig[0].maxResponseMessageBytes=1: is not supported by meshlib, "
                "which has no limit per method; use the channel option grpc.max_receive_message_length"
            ),
        ),
        (
            method(maxRequestMessageBytes=1),
            (
                "methodConfig[0].maxRequestMessageBytes=1: is not supported by meshlib, "
                "which has no limit per method; use the channel option grpc.max_send_message_length"
            ),
        ),
        (
            {"connectionScaling": {}},
            ("connectionScaling={}: is not supported by meshlib, which keeps one connection to each host"),
        ),
    ],
)
def test_fields_that_are_none(given: Any, said: str) -> None:
    """grpc ignores such fields; the error lists the known ones, or names the right place or the likely field."""
    assert refusal(given) == said


def test_a_name_of_any_length() -> None:
    """The path in the error stays readable."""
    assert refusal({"x" * 100_000: 1}).startswith("x" * 80 + "=1: unknown field")
    assert refusal({"loadBalancingConfig": [{"round_robin": {"y" * 1000: 1}}]}).count("y") == 80


# --- texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "'': must be JSON: Expecting value at line 1, column 1"),
        ('{"a": 1,}', "'{\"a\": 1,}': must be JSON: "),
        ('{\n "a" 1}', "at line 2, column 6"),
        ("[1, 2", "at line 1, column 6"),
        ("{} {}", "must be JSON: Extra data at line 1, column 4"),
        ('{"retryThrottling": NaN}', "must be JSON: NaN is not a number in JSON"),
        ('{"retryThrottling": -Infinity}', "must be JSON: -Infinity is not a number in JSON"),
        ("9" * 5000, "must be JSON: Exceeds the limit"),
        ("[" * 200_000, "must be JSON: "),
        ("[]", f"[]: {OBJECT}"),
        ("null", f"None: {OBJECT}"),
        (b"{}", "b'{}': must be JSON text or a mapping"),
        (None, "None: must be JSON text or a mapping"),
        ([{"methodConfig": []}], "must be JSON text or a mapping"),
        ({3: 4}, "3: the name of a field must be a string"),
        ({"methodConfig": [{None: 4}]}, "methodConfig[0]=None: the name of a field must be a string"),
        (retry(maxAttempts=10**5000), "maxAttempts=<a number of 16610 bits>: must be a whole number from 2 to 100"),
        (retry(backoffMultiplier=10**400), "must be a number from 1 to 1000"),
        (retry(backoffMultiplier=math.nan), "retryPolicy.backoffMultiplier=nan: must be a number"),
        (retry(maxAttempts=math.inf), "retryPolicy.maxAttempts=inf: must be a whole number"),
    ],
    ids=lambda given: None if isinstance(given, str) and len(given) < 100 else "long",
)
def test_what_is_no_config_at_all(given: Any, said: str) -> None:
    """The error has the position in the text; no other error escapes for values that are too large for Python."""
    with pytest.raises(ConfigError) as caught:
        parse(given)
    assert str(caught.value).startswith("service_config")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"methodConfig": [], "methodConfig": []}', ".methodConfig=[]"),
        ('{"x": 1, "y": 2, "x": 3}', ".x=3"),
        ('{"methodConfig": [{"name": [{"service": "a", "service": "b"}]}]}', ".methodConfig[0].name[0].service='b'"),
        ('{"loadBalancingConfig": [{"random": {}, "random": {}}]}', ".loadBalancingConfig[0].random={}"),
    ],
)
def test_a_name_given_twice(text: str, path: str) -> None:
    """JSON parsers would silently take the last."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == f"service_config{path}: is given twice in one object"


def test_under_another_name() -> None:
    """Paths begin with the name of the caller's argument."""
    with pytest.raises(ConfigError, match=r"^options\['grpc.service_config'\].timeout=1: unknown field"):
        parse({"timeout": 1}, field="options['grpc.service_config']")
