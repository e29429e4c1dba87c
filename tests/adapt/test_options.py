"""Channel options: what is refused where the channel is made, and what a subchannel gets."""

import json
from typing import Any

import pytest

from meshlib import ConfigError
from meshlib._adapt.options import checked, for_subchannel, native_target, numbered


@pytest.mark.parametrize(
    "options",
    [
        "grpc.keepalive_time_ms=1",
        [("grpc.keepalive_time_ms",)],
        [1],
        7,
        [(b"grpc.keepalive_time_ms", 1)],
        [("", 1)],
        [("grpc.keepalive_time_ms", 1.5)],
        [("grpc.keepalive_time_ms", "1000")],
        [("grpc.max_receive_message_length", None)],
    ],
)
def test_nonsense_is_refused_with_its_name(options: Any) -> None:
    """At construction, not at the first call."""
    with pytest.raises(ConfigError, match=r"^options"):
        checked(options)


def test_what_grpc_takes_is_taken() -> None:
    """Numbers, text and bytes, in order."""
    options = [("grpc.keepalive_time_ms", 10000), ("grpc.primary_user_agent", "svc-b"), ("x", b"y")]
    assert checked(options) == tuple(options)
    assert checked(None) == ()


def test_grpcs_own_factories_take_what_grpc_takes() -> None:
    """Names in bytes, and values that only grpc can judge."""
    options = [(b"grpc.primary_user_agent", b"svc-b"), ("grpc.x", 1.5), ("grpc.y", None)]
    assert checked(options, as_grpc=True) == (("grpc.primary_user_agent", b"svc-b"), *options[1:])


def test_the_users_options_win_over_the_defaults() -> None:
    """Each name once, so that no rule of precedence of C-core's decides."""
    made = for_subchannel((("grpc.max_reconnect_backoff_ms", 9000), ("grpc.enable_http_proxy", 1)), "svc-a")
    assert dict(made)["grpc.max_reconnect_backoff_ms"] == 9000
    assert dict(made)["grpc.enable_http_proxy"] == 1
    assert dict(made)["grpc.default_authority"] == "svc-a"
    assert len({name for name, _ in made}) == len(made)


def test_the_authority_of_the_user_wins_too() -> None:
    """As with grpc, the option decides what is sent and what TLS verifies."""
    assert dict(for_subchannel((("grpc.default_authority", "mine"),), "svc-a"))["grpc.default_authority"] == "mine"


def test_cores_retries_never_multiply_ours() -> None:
    """What would retry below the mesh is taken out of a service config; the rest stays."""
    config = {
        "methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5}, "waitForReady": True}],
        "retryThrottling": {"maxTokens": 10},
        "healthCheckConfig": {"serviceName": "x"},
    }
    made = dict(for_subchannel((("grpc.service_config", json.dumps(config)),), None))
    assert json.loads(made["grpc.service_config"]) == {
        "methodConfig": [{"name": [{}], "waitForReady": True}],
        "healthCheckConfig": {"serviceName": "x"},
    }


def test_a_subchannel_that_is_dialled_anew_shares_no_connection_with_the_one_before() -> None:
    """Equal options would have it wait for the end of the other one's back-off."""
    assert len({numbered(for_subchannel((), None), number) for number in range(3)}) == 3


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("10.0.0.7:50051", "ipv4:10.0.0.7:50051"),
        ("[::1]:50051", "ipv6:[::1]:50051"),
        ("[fe80::1%eth0]:50051", "ipv6:[fe80::1%25eth0]:50051"),
        ("unix:/run/a", "unix:/run/a"),
        ("unix:/run/a?b#c%3Fd", "unix:/run/a%3Fb%23c%253Fd"),
    ],
)
def test_an_address_becomes_a_target_that_needs_no_lookup(address: str, target: str) -> None:
    """So that C-core's own DNS never runs. It decodes the target once."""
    assert native_target(address) == target


def test_several_addresses_become_one_target() -> None:
    """C-core takes addresses of one family in a target, and pick_first for several of one host."""
    assert native_target("10.0.0.7:1", "[fd00::7]:1") == "ipv6:[::ffff:10.0.0.7]:1,[fd00::7]:1"
    assert native_target("[fd00::7]:1", "10.0.0.7:2") == "ipv6:[fd00::7]:1,[::ffff:10.0.0.7]:2"
    options = for_subchannel((("grpc.lb_policy_name", "round_robin"), ("x", 1)), None, alternatives=True)
    assert [value for name, value in options if name == "grpc.lb_policy_name"] == ["pick_first"]
    assert ("x", 1) in options
