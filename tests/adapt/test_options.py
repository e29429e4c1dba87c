"""Channel options: those rejected when the channel is made, and those passed to a subchannel."""

import json
import logging
from typing import Any

import grpc.experimental
import pytest

from meshlib import ConfigError
from meshlib._adapt.options import WITHOUT_EFFECT, checked, for_subchannel, native_target, numbered
from meshlib._control.arguments import ChannelArguments, takes
from meshlib._control.channel_config import ChannelConfig
from meshlib._control.settings import settle
from meshlib._core.balancing.pick_first import PickFirst
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.endpoint import Endpoint
from meshlib._core.host import HostEntry


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
    """Rejected at construction, not at the first call."""
    with pytest.raises(ConfigError, match=r"^options"):
        checked(options)


def test_what_grpc_takes_is_taken() -> None:
    """Numbers, text and bytes, in order."""
    options = [("grpc.keepalive_time_ms", 10000), ("grpc.primary_user_agent", "svc-b"), ("x", b"y")]
    assert checked(options) == tuple(options)
    assert checked(None) == ()


def test_grpcs_own_factories_take_what_grpc_takes() -> None:
    """Names in bytes, and values that only grpc can validate."""
    options = [(b"grpc.primary_user_agent", b"svc-b"), ("grpc.x", 1.5), ("grpc.y", None)]
    assert checked(options, as_grpc=True) == (("grpc.primary_user_agent", b"svc-b"), *options[1:])


def test_the_users_options_win_over_the_defaults() -> None:
    """Each name occurs once, so that no precedence rule of C-core's matters."""
    made = for_subchannel((("grpc.max_reconnect_backoff_ms", 9000), ("grpc.enable_http_proxy", 1)), "svc-a")
    assert dict(made)["grpc.max_reconnect_backoff_ms"] == 9000
    assert dict(made)["grpc.enable_http_proxy"] == 1
    assert dict(made)["grpc.default_authority"] == "svc-a"
    assert len({name for name, _ in made}) == len(made)


def test_the_authority_of_the_user_wins_too() -> None:
    """As with grpc, the option determines the sent authority and the name that TLS verifies."""
    assert dict(for_subchannel((("grpc.default_authority", "mine"),), "svc-a"))["grpc.default_authority"] == "mine"


def test_cores_retries_never_multiply_ours() -> None:
    """Retries below the mesh are removed from a service config; the rest stays."""
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
    """With equal options it would wait for the other connection's back-off."""
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
    """C-core's own DNS never runs. It decodes the target once."""
    assert native_target(address) == target


def test_several_addresses_become_one_target() -> None:
    """C-core accepts addresses of one family in a target, and pick_first for several of one host."""
    assert native_target("10.0.0.7:1", "[fd00::7]:1") == "ipv6:[::ffff:10.0.0.7]:1,[fd00::7]:1"
    assert native_target("[fd00::7]:1", "10.0.0.7:2") == "ipv6:[fd00::7]:1,[::ffff:10.0.0.7]:2"
    options = for_subchannel((("grpc.lb_policy_name", "round_robin"), ("x", 1)), None, alternatives=True)
    assert [value for name, value in options if name == "grpc.lb_policy_name"] == ["pick_first"]
    assert ("x", 1) in options


# Every channel argument of C-core (grpc/impl/channel_arg_names.h, 1.85) for clients, and its treatment: "obeyed" by the
# subchannels, as written; "refused"; or meshlib's own handling.
OBEYED: dict[str, Any] = {
    "grpc.absolute_max_metadata_size": 16384,
    "grpc.address_http_proxy": "127.0.0.1:3128",
    "grpc.address_http_proxy_enabled_addresses": "10.0.0.0/8",
    "grpc.census": 0,
    "grpc.client_idle_timeout_ms": 2**31 - 1,
    "grpc.compression_enabled_algorithms_bitset": 7,
    "grpc.default_authority": "svc-a",
    "grpc.default_compression_algorithm": 2,
    "grpc.default_compression_level": 1,
    "grpc.disable_client_authority_filter": 1,
    "grpc.dns_ares_query_timeout": 0,
    "grpc.dns_enable_srv_queries": 0,
    "grpc.dscp": 10,
    "grpc.enable_channelz": 0,
    "grpc.enable_http_proxy": 1,
    "grpc.enable_retries": 0,
    "grpc.experimental.enable_hedging": 1,
    "grpc.experimental.http2.enable_preferred_frame_size": 1,
    "grpc.experimental.tcp_max_read_chunk_size": 8192,
    "grpc.experimental.tcp_min_read_chunk_size": 1024,
    "grpc.experimental.tcp_read_chunk_size": 8192,
    "grpc.experimental.tcp_tx_zerocopy_enabled": 1,
    "grpc.experimental.tcp_tx_zerocopy_max_simultaneous_sends": 4,
    "grpc.experimental.tcp_tx_zerocopy_send_bytes_threshold": 16384,
    "grpc.happy_eyeballs_connection_attempt_delay_ms": 100,
    "grpc.http2.bdp_probe": 0,
    "grpc.http2.hpack_table_size.decoder": 4096,
    "grpc.http2.hpack_table_size.encoder": 4096,
    "grpc.http2.initial_sequence_number": 1,
    "grpc.http2.lookahead_bytes": 65536,
    "grpc.http2.max_frame_size": 16384,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.http2.min_time_between_pings_ms": 1000,
    "grpc.http2.ping_timeout_ms": 1000,
    "grpc.http2.true_binary": 1,
    "grpc.http2.write_buffer_size": 65536,
    "grpc.http2_scheme": "http",
    "grpc.http_proxy": "http://127.0.0.1:3128",
    "grpc.inhibit_health_checking": 1,
    "grpc.initial_reconnect_backoff_ms": 500,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.keepalive_time_ms": 10000,
    "grpc.keepalive_timeout_ms": 1000,
    "grpc.loadreporting": 0,
    "grpc.max_channel_trace_event_memory_per_node": 0,
    "grpc.max_concurrent_streams": 100,
    "grpc.max_metadata_size": 8192,
    "grpc.max_receive_message_length": -1,
    "grpc.max_reconnect_backoff_ms": 9000,
    "grpc.max_send_message_length": -1,
    "grpc.min_reconnect_backoff_ms": 1000,
    "grpc.minimal_stack": 1,
    "grpc.optimization_target": "latency",
    "grpc.per_message_compression": 0,
    "grpc.per_message_decompression": 0,
    "grpc.per_rpc_retry_buffer_size": 1024,
    "grpc.primary_user_agent": "svc-b",
    "grpc.secondary_user_agent": "svc-c",
    "grpc.security_frame_allowed": 1,
    "grpc.service_config_disable_resolution": 1,
    "grpc.ssl_target_name_override": "svc-a",
    "grpc.surface_user_agent": 0,
    "grpc.tcp_receive_buffer_size": 65536,
    "grpc.testing.fixed_reconnect_backoff_ms": 100,
    "grpc.tsi.max_frame_size": 16384,
    "grpc.use_local_subchannel_pool": 1,
    grpc.experimental.ChannelOptions.SingleThreadedUnaryStream: 1,
}
REFUSED: dict[str, Any] = {
    "grpc.client_idle_timeout_ms": 60_000,
    "grpc.dns_ares_query_timeout": 1000,
    "grpc.dns_enable_srv_queries": 1,
    "grpc.dns_min_time_between_resolutions_ms": 1000,
    "grpc.experimental.grpclb_channel_args": "any",
    "grpc.grpclb_call_timeout_ms": 1000,
    "grpc.grpclb_fallback_timeout_ms": 1000,
    "grpc.lb.ring_hash.ring_size_cap": 4096,
    "grpc.lb_policy_name": "weighted_round_robin",
    "grpc.priority_failover_timeout_ms": 1000,
    "grpc.service_config_disable_resolution": 0,
}


def settled(target: str = "svc-a", *, as_grpc: bool = False, **given: Any) -> ChannelConfig:
    """The configuration of a channel with these arguments."""

    @takes(ChannelArguments)
    def configured(arguments: ChannelArguments) -> ChannelConfig:
        return settle(arguments, as_grpc=as_grpc).config

    return configured(target, **given)


def subchannel(config: ChannelConfig) -> dict[str, Any]:
    """The options of the channel to a host, each with one value."""
    _, options = config.cluster.subchannel(HostEntry(Endpoint(address="10.0.0.7:1")))
    assert len({name for name, _ in options}) == len(options)
    return dict(options)


@pytest.mark.parametrize("as_grpc", [False, True])
@pytest.mark.parametrize("name", OBEYED)
def test_an_option_that_works_on_one_address_reaches_it(name: str, as_grpc: bool) -> None:
    """As written, overriding meshlib's default."""
    assert subchannel(settled(options=[(name, OBEYED[name])], as_grpc=as_grpc))[name] == OBEYED[name]


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_that_can_have_no_effect_is_refused_with_the_reason(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """grpc's own factories accept all of grpc's options, and log once those without effect."""
    reason, _ = WITHOUT_EFFECT[name]
    with pytest.raises(ConfigError) as error:
        settled(options=[(name, REFUSED[name])])
    assert str(error.value) == f"options[{name!r}]={REFUSED[name]!r}: {reason}"
    with caplog.at_level(logging.WARNING, "meshlib"):
        for _ in range(2):
            settle(
                ChannelArguments(f"svc-{name.replace('.', '-').replace('_', '-')}", options=[(name, REFUSED[name])]),
                as_grpc=True,
            )
    assert [f"option ({name!r}, {REFUSED[name]!r}) {reason}" in text for text in caplog.messages] == [True]


def test_the_table_is_complete() -> None:
    """Every rejected option is in it."""
    assert set(REFUSED) == set(WITHOUT_EFFECT)


def test_a_target_of_grpcs_own_keeps_all_options() -> None:
    """C-core resolves and balances such a target, so every option works."""
    options = tuple(REFUSED.items())
    assert settled("xds:///svc-a", options=options).cluster.options == options


@pytest.mark.parametrize(("name", "balancer"), [("pick_first", PickFirst), (b"round_robin", RoundRobin)])
def test_the_policy_of_the_option_is_the_balancer(name: str | bytes, balancer: type) -> None:
    """On the channel to one host it would have no choice."""
    config = settled(options=[("grpc.lb_policy_name", name)])
    assert type(config.cluster.policy.balancer) is balancer
    assert subchannel(config)["grpc.lb_policy_name"] == "round_robin"


def test_two_balancers_are_refused() -> None:
    """One of them would be ignored."""
    with pytest.raises(ConfigError, match=r"^balancer='random': is also set in options\['grpc.lb_policy_name'\]"):
        settled(balancer="random", options=[("grpc.lb_policy_name", "pick_first")])


def test_a_proxy_that_the_user_names_is_used() -> None:
    """The default that hides proxies of the environment would hide this one as well."""
    proxy = ("grpc.http_proxy", "http://127.0.0.1:3128")
    assert "grpc.enable_http_proxy" not in subchannel(settled(options=[proxy]))
    both = [proxy, ("grpc.enable_http_proxy", 0)]
    assert subchannel(settled(options=both))["grpc.enable_http_proxy"] == 0


def test_a_longer_first_back_off_is_not_cut_by_the_longest() -> None:
    """Our maximum is 5 s, less than grpc's default."""
    made = subchannel(settled(options=[("grpc.initial_reconnect_backoff_ms", 20_000)]))
    assert made["grpc.max_reconnect_backoff_ms"] == 20_000


def test_an_idle_connection_is_kept() -> None:
    """C-core would close it after half an hour, only to reopen it at once."""
    assert subchannel(settled())["grpc.client_idle_timeout_ms"] == 2**31 - 1
