"""Settings of a channel: grpc's own factories get the same policies as ``meshlib.channel``."""

import asyncio
import os
import subprocess
import sys
import types

import grpc
import grpc.experimental
import pytest

import meshlib
import meshlib.aio
from meshlib._control.arguments import ChannelArguments
from meshlib._control.settings import settle
from meshlib.balancing import RoundRobin


def test_a_one_word_swap_has_every_default_but_retries_only_what_never_ran() -> None:
    """Behind grpc's names a call runs as often as with grpc; everything else is the default of ``meshlib.channel``."""
    ours, swapped = settle(ChannelArguments("svc-a")), settle(ChannelArguments("svc-a"), as_grpc=True)
    assert ours.config.listener.methods.retry == meshlib.RetryPolicy()
    assert swapped.config.listener.methods.retry == meshlib.RetryPolicy(unsent_only=True)
    for settings in (ours, swapped):
        assert settings.config.cluster.policy.retry_budget == meshlib.RetryBudget()
        assert settings.config.cluster.policy.outlier_detection == meshlib.OutlierDetection()


@pytest.mark.parametrize(
    "modules", [("_thread", "threading"), ("select", "selectors", "socket", "queue", "time"), ("queue",)]
)
def test_a_process_that_gevent_patched_is_refused(modules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """At construction, with the reason: threads, ``patch_all(thread=False)``, and queues alone, whose real ones wake
    real threads. ``nox -s "clients(client='gevent')"`` does the same with the real gevent."""
    patched = types.ModuleType("gevent.monkey")
    patched.is_module_patched = lambda name: name in modules  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    with pytest.raises(meshlib.ConfigError, match="needs real threads"):
        meshlib.channel("svc-a")


def test_the_refusal_is_what_the_first_channel_of_a_process_says() -> None:
    """The first channel loads the modules that serve calls, from a standard library in which gevent left no epoll."""
    program = """
import selectors, sys, types
import grpc
if hasattr(selectors, "EpollSelector"):
    del selectors.EpollSelector
gevent = sys.modules["gevent.monkey"] = types.ModuleType("gevent.monkey")
gevent.is_module_patched = lambda name: name == "selectors"
import meshlib
try:
    meshlib.channel("svc-a")
except meshlib.ConfigError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "gevent='patched selectors'" in ran.stdout, ran.stderr


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("credentials", "tls"),
        ("compression", "gzip"),
        ("resolver", object()),
        ("retry_budget", 20),
        ("outlier_detection", True),
        ("circuit_breaker", 1024),
        ("service_config", "[]"),
        ("dns", {}),
        ("balancer", "rond_robin"),
        ("balancer", 7),
        ("retry", 3),
        ("timeout", -1),
        ("timeout", "soon"),
        ("methods", {"Svc/Method": meshlib.MethodPolicy()}),
        ("methods", {"/Svc/Method": meshlib.RetryPolicy()}),
        ("methods", ["*"]),
        ("options", [("grpc.keepalive_time_ms", "1000")]),
    ],
)
def test_what_cannot_be_used_is_refused_by_both_kinds_of_channel(argument: str, value: object) -> None:
    """At construction, with the name of the argument and the value."""
    for channel in (meshlib.channel, meshlib.aio.channel):
        with pytest.raises(meshlib.ConfigError) as caught:
            channel("svc-a", **{argument: value})  # type: ignore[operator]
        assert argument in str(caught.value)


def test_an_unknown_scheme_is_refused_with_those_that_are_known() -> None:
    """In the replacements of grpc's factories, grpc reports the error at the call."""
    with pytest.raises(meshlib.ConfigError, match="known: dns, "):
        meshlib.channel("sry:///svc-a")
    meshlib.insecure_channel("sry:///svc-a").close()

    async def aio() -> None:
        await meshlib.aio.insecure_channel("sry:///svc-a").close()

    asyncio.run(aio())


TLS = grpc.ssl_channel_credentials()


@pytest.mark.parametrize(
    ("credentials", "word", "port"),
    [
        (None, "plaintext", 80),
        (grpc.experimental.insecure_channel_credentials(), "plaintext", 80),
        (TLS, "TLS", 443),
        (grpc.composite_channel_credentials(TLS, grpc.access_token_call_credentials("secret")), "TLS", 443),
        (grpc.local_channel_credentials(), "local", 443),
    ],
    ids=["none", "insecure", "tls", "composite", "local"],
)
def test_a_channel_says_how_its_connections_are_protected(
    credentials: grpc.ChannelCredentials | None, word: str, port: int
) -> None:
    """Credentials of a plaintext channel are not called TLS, and have its default port."""
    with meshlib.channel("svc-a", credentials=credentials) as channel:
        assert f" {word} " in repr(channel.mesh)
    assert settle(ChannelArguments("svc-a", credentials=credentials)).config.listener.target.default_port == port


def test_only_balancers_of_this_package_are_built_by_the_control_plane() -> None:
    """A subclass is an application's, and may be slow."""

    class Slow(RoundRobin):  # type: ignore[misc]
        pass

    assert not settle(ChannelArguments("svc-a", balancer=RoundRobin())).config.cluster.policy.builds_aside
    assert settle(ChannelArguments("svc-a", balancer=Slow())).config.cluster.policy.builds_aside
