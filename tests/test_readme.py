"""The README's Python runs as written, so that copied code works."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def svc_a(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two instances of the service that the README calls svc-a; they serve gRPC's own health protocol."""
    servers, ports = [], []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            server = grpc.server(pool)
            service = health.HealthServicer()
            service.set("", health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(service, server)
            ports.append(server.add_insecure_port("127.0.0.1:0"))
            server.start()
            servers.append(server)
        monkeypatch.setenv("MESHLIB_SVC_A_ENDPOINTS", ",".join(f"127.0.0.1:{port}" for port in ports))
        yield
        for server in servers:
            server.stop(None).wait(5)


def test_the_readme_runs(svc_a: None) -> None:
    """Every block marked python runs, in order, in one namespace, against two servers behind the name svc-a."""
    text = README.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], README, "exec"), namespace)
