"""A service config together with a channel's arguments: each setting comes from one of them."""

import json
import logging
from typing import Any

import pytest

import meshlib
from meshlib._control.arguments import ChannelArguments, takes
from meshlib._control.channel_config import ChannelConfig
from meshlib._control.settings import settle
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.endpoint import Endpoint
from meshlib._core.host import HostEntry

RETRY = {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
         "retryableStatusCodes": ["UNAVAILABLE"]}  # fmt: skip
CONFIG: dict[str, Any] = {
    "methodConfig": [{"name": [{"service": "shop.Orders"}], "retryPolicy": RETRY, "timeout": "2s"}],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.5},
    "loadBalancingConfig": [{"least_request": {"choiceCount": 3}}],
}


def settled(target: str = "svc-a", *, as_grpc: bool = False, **given: Any) -> ChannelConfig:
    """The configuration of a channel with these arguments."""

    @takes(ChannelArguments)
    def configured(arguments: ChannelArguments) -> ChannelConfig:
        return settle(arguments, as_grpc=as_grpc).config

    return configured(target, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"service_config": CONFIG},
        {"service_config": json.dumps(CONFIG)},
        {"options": [("grpc.service_config", json.dumps(CONFIG))]},
        {"options": [("grpc.service_config", json.dumps(CONFIG))], "as_grpc": True},
    ],
)
def test_a_service_config_is_followed(given: dict[str, Any]) -> None:
    """As a mapping, as text, as the channel option, and in the replacements of grpc's factories."""
    config = settled(**given)
    plan = config.listener.methods.plan("/shop.Orders/Pay")
    assert plan.retry is not None
    assert (plan.retry.max_attempts, plan.timeout) == (4, 2.0)
    assert config.cluster.policy.retry_throttling == meshlib.RetryThrottling(max_tokens=10, token_ratio=0.5)
    assert config.cluster.policy.retry_budget == meshlib.RetryBudget()
    assert config.cluster.policy.balancer == LeastRequest(choice_count=3)
    assert config.cluster.options == ()


def test_what_it_does_not_say_is_the_channels() -> None:
    """An empty config changes nothing."""
    config = settled(service_config="{}")
    assert config.listener.methods.retry == meshlib.RetryPolicy()
    assert config.cluster.policy.retry_throttling is None
    assert config.cluster.policy.balancer == RoundRobin()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"options": [("grpc.service_config", "{}")]}, "service_config"),
        ({"methods": {"/shop.Orders/*": meshlib.MethodPolicy(retry=None)}}, "methods"),
        ({"balancer": "random"}, "balancer"),
        ({"balancer": "round_robin"}, "balancer"),  # the default, but written
        ({"retry_budget": meshlib.RetryThrottling(max_tokens=3, token_ratio=1)}, "retry_budget"),
    ],
)
def test_what_is_said_twice_is_refused(given: dict[str, Any], field: str) -> None:
    """A setting given by both is rejected, so that neither wins silently."""
    with pytest.raises(meshlib.ConfigError, match="set only one of them") as error:
        settled(service_config=CONFIG, **given)
    assert error.value.field == field


def test_methods_of_both_stand_side_by_side() -> None:
    """Both are used if the methods differ."""
    config = settled(service_config=CONFIG, methods={"/shop.Orders/Pay": meshlib.MethodPolicy(retry=None)})
    assert config.listener.methods.plan("/shop.Orders/Pay").retry is None
    assert config.listener.methods.plan("/shop.Orders/Get").retry is not None


def test_throttling_without_a_service_config() -> None:
    """Throttling replaces the budget."""
    throttling = meshlib.RetryThrottling(max_tokens=3, token_ratio=1)
    config = settled(retry_budget=throttling)
    policy = config.cluster.policy
    assert (policy.retry_budget, policy.retry_throttling) == (None, throttling)


def test_health_checks_are_cores() -> None:
    """gRFC A17 watches each subchannel; nothing else of the config may reach it."""
    service_config = {**CONFIG, "healthCheckConfig": {"serviceName": "shop"}}
    config = settled(service_config=service_config)
    _, options = config.cluster.subchannel(HostEntry(Endpoint(address="10.0.0.7:1")))
    assert json.loads(dict(options)["grpc.service_config"]) == {"healthCheckConfig": {"serviceName": "shop"}}


def test_grpcs_factories_leave_what_cannot_be_followed_to_grpc(caplog: pytest.LogCaptureFixture) -> None:
    """grpc answers at the call; the log says what meshlib does not do."""
    text = '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": "many"}}]}'
    with caplog.at_level(logging.WARNING, "meshlib"):
        config = settled(options=[("grpc.service_config", text)], as_grpc=True)
    assert config.cluster.options == (("grpc.service_config", text),)
    assert "methodConfig[0].retryPolicy" in caplog.text


def test_a_target_of_grpcs_own_keeps_its_options() -> None:
    """xds has its own policies, and meshlib's service config would have no effect."""
    options = [("grpc.service_config", json.dumps(CONFIG))]
    assert settled("xds:///svc-a", options=options).cluster.options == tuple(options)
    with pytest.raises(meshlib.ConfigError, match="a target that grpc resolves itself"):
        settled("xds:///svc-a", service_config=CONFIG)


def test_enable_retries_off_means_no_retries() -> None:
    """In the replacements of grpc's factories, as in grpc, under any service config. For ``meshlib.channel``, which has
    ``retry=None``, the option is C-core's."""
    off = ("grpc.enable_retries", 0)
    options = [off, ("grpc.service_config", json.dumps(CONFIG))]
    for config in (settled(options=[off], as_grpc=True), settled(options=options, as_grpc=True)):
        plan = config.listener.methods.plan("/shop.Orders/Pay")
        assert (plan.retry, plan.hedging) == (None, None)
    assert config.listener.methods.plan("/shop.Orders/Pay").timeout == 2.0
    assert settled(options=[off]).listener.methods.retry == meshlib.RetryPolicy()


def test_cores_transparent_retries_stay_on() -> None:
    """They resend what no server has seen, as often as needed; meshlib has no equivalent."""
    host = HostEntry(Endpoint(address="10.0.0.7:1"))
    _, options = settled().cluster.subchannel(host)
    assert "grpc.enable_retries" not in dict(options)
    _, options = settled(options=[("grpc.enable_retries", 0)]).cluster.subchannel(host)
    assert dict(options)["grpc.enable_retries"] == 0
