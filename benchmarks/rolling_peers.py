"""Peers measured by ``rolling.py``: meshlib, grpc's own round robin with its own retries, and an Envoy sidecar.

All make up to three attempts with the same backoff after UNAVAILABLE, and after CANCELLED unless it is excluded.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
from sidecar import TYPE, sidecar

import meshlib
import meshlib.aio
from meshlib.testing import echo

ATTEMPTS = 3
BACKOFF, MAX_BACKOFF = 0.025, 0.25  # seconds
BUDGET = {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3}
ROUND_ROBIN = ("grpc.lb_policy_name", "round_robin")

Attempts = Callable[[], int | None]
"""Number of attempts by the peer's own count; None: unknown."""


@contextmanager
def mesh(shell: str, addresses: list[str], codes: list[str]) -> Iterator[tuple[Any, Attempts]]:
    """Open meshlib with its defaults, except other codes."""
    make = meshlib.channel if shell == "sync" else meshlib.aio.channel
    retry = meshlib.RetryPolicy()
    assert (retry.max_attempts, retry.initial_backoff, retry.max_backoff) == (ATTEMPTS, BACKOFF, MAX_BACKOFF)
    changed = {}
    if retry.retryable_status_codes != frozenset(codes):
        changed["retry"] = meshlib.RetryPolicy(retryable_status_codes=frozenset(codes))
    yield make("static:///" + ",".join(addresses), **changed), lambda: None


@contextmanager
def native(shell: str, addresses: list[str], codes: list[str]) -> Iterator[tuple[Any, Attempts]]:
    """Open one grpc channel to all addresses, with a service config."""
    retries = {
        "maxAttempts": ATTEMPTS,
        "initialBackoff": f"{BACKOFF}s",
        "maxBackoff": f"{MAX_BACKOFF}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": codes,
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": retries}]}
    options = [ROUND_ROBIN, ("grpc.service_config", json.dumps(config))]
    yield _plain(shell, "ipv4:" + ",".join(addresses), options), lambda: None


@contextmanager
def envoy(
    shell: str, addresses: list[str], codes: list[str], *, unlimited: bool = False
) -> Iterator[tuple[Any, Attempts]]:
    """Open a sidecar and one plain channel to it. Its retry budget equals meshlib's default or is ``unlimited``:
    Envoy's budget counts retries that a dead host causes, meshlib's does not."""
    retry = {
        # gRPC codes match servers' statuses; broken connections, UNAVAILABLE to grpc, have names of their own.
        "retry_on": ",".join([*map(str.lower, codes), "connect-failure", "refused-stream", "reset"]),
        "num_retries": ATTEMPTS - 1,
        "retry_back_off": {"base_interval": f"{BACKOFF}s", "max_interval": f"{MAX_BACKOFF}s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{TYPE}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 3,
    }
    cluster = {
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [{"max_retries": 1000} if unlimited else {"retry_budget": BUDGET}]},
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_percent": 50,
        },
    }
    with sidecar(addresses, route={"retry_policy": retry}, cluster=cluster) as running:
        yield _plain(shell, running.target, []), lambda: running.upstream_requests


def wait_for_ready(channel: Any, seconds: float = 20.0) -> None:
    """Wait until a call of a sync channel is answered and all hosts of meshlib or grpc are connected."""
    end = time.monotonic() + seconds
    channel.unary_unary(echo.UNARY)(b"", timeout=seconds, wait_for_ready=True)
    while not all_connected(channel):
        if time.monotonic() > end:
            raise TimeoutError(f"{channel!r} is not connected to all servers after {seconds} s")
        time.sleep(0.01)


def all_connected(channel: Any) -> bool:
    """Return whether every host of a mesh is connected; unknown for other peers."""
    return not hasattr(channel, "mesh") or all(host.state == "READY" for host in channel.mesh.snapshot().hosts)


def _plain(shell: str, target: str, options: list[tuple[str, Any]]) -> Any:
    make = grpc.insecure_channel if shell == "sync" else grpc.aio.insecure_channel
    # A pool of its own, or a channel would reuse the connections of the previous one.
    return make(target, options=[*options, ("grpc.use_local_subchannel_pool", 1)])


PEERS: dict[str, Any] = {
    "meshlib": mesh,
    "native": native,
    "envoy": envoy,
    "envoy-unlimited": partial(envoy, unlimited=True),
}
