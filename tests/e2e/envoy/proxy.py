"""A real Envoy for tests: a process on loopback, on ports chosen by the kernel, read by its admin interface."""

import http.client
import json
from pathlib import Path
from typing import Any, Self

from meshlib.testing.processes import Child

_SECONDS = 30.0
_ADMIN_SECONDS = 5.0


class Envoy:
    """It serves from its construction to ``close``.

    One worker thread, so that there is one round robin and one connection to each host, as in one channel.

    Args:
        program: The path of ``envoy``.
        directory: An empty folder for its files.
        config: The bootstrap; every port in it may be 0.

    Raises:
        RuntimeError: It exited, most often over its configuration; the message has its last output.
        TimeoutError: It was not ready in time; the same.
    """

    def __init__(self, program: Path, directory: Path, config: dict[str, Any]) -> None:
        (directory / "envoy.json").write_text(json.dumps(config))
        self._admin = directory / "admin"
        command = [str(program), "-c", str(directory / "envoy.json"), "--admin-address-path", str(self._admin)]
        command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        self._child = Child(command, log=directory / "log")
        self.listeners: dict[str, str] = {}
        """``127.0.0.1:41234`` for the name of each listener."""
        try:
            self._child.start()
            self._child.wait_until(self._ready, timeout=_SECONDS)
            self.listeners = {
                listener["name"]: "{address}:{port_value}".format(**listener["local_address"]["socket_address"])
                for listener in self.admin("/listeners?format=json").get("listener_statuses", ())
            }
        except BaseException:
            self.close()
            raise

    def admin(self, path: str) -> Any:
        """The parsed JSON of the admin interface."""
        status, body = self._get(path)
        if status != 200:
            raise RuntimeError(f"Envoy answered {status} to {path}: {body.decode(errors='replace')}")
        return json.loads(body)

    def stats(self, cluster: str) -> dict[str, int]:
        """Counters and gauges of a cluster, without ``cluster.<name>.`` before them."""
        prefix = f"cluster.{cluster}."
        stats = self.admin(f"/stats?format=json&filter=^{prefix}")["stats"]
        return {stat["name"].removeprefix(prefix): stat["value"] for stat in stats if "value" in stat}

    def health(self, cluster: str) -> dict[str, dict[str, Any]]:
        """The ``health_status`` of each host of a cluster by its address, from ``/clusters``."""
        status = next(one for one in self.admin("/clusters?format=json")["cluster_statuses"] if one["name"] == cluster)
        return {
            "{address}:{port_value}".format(**host["address"]["socket_address"]): host["health_status"]
            for host in status["host_statuses"]
        }

    def close(self) -> None:
        """Kill it. Idempotent."""
        self._child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ready(self) -> bool:
        if not self._admin.exists() or not self._admin.read_text():
            return False
        try:
            return self._get("/ready")[0] == 200
        except OSError:
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        host, _, port = self._admin.read_text().rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=_ADMIN_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
