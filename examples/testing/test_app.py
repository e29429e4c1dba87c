"""Tests of an application against real servers that fail on request."""

from collections.abc import Callable

import grpc
import pytest

import meshlib
from meshlib.testing import Server, echo

Servers = Callable[..., list[Server]]


class App:
    """The application under test: it takes and pays orders through the echo service."""

    def __init__(self) -> None:
        self.channel = meshlib.channel("svc-a", methods={echo.CLIENT_STREAM: meshlib.MethodPolicy(retry=None)})
        self.take = self.channel.unary_unary(echo.UNARY)
        self.pay = self.channel.stream_unary(echo.CLIENT_STREAM)

    def order(self, item: bytes) -> bytes:
        return self.take(item, timeout=5)

    def pay_for(self, *items: bytes) -> bytes:
        return self.pay(iter(items), timeout=5)


def test_an_order_survives_a_restart(mesh_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, beta = mesh_servers(2)
    monkeypatch.setenv("MESHLIB_SVC_A_ENDPOINTS", f"{alpha.address},{beta.address}")
    app = App()
    with app.channel:
        assert app.order(b"tea") == b"tea"
        alpha.stop()
        assert [app.order(b"tea") for _ in range(10)] == [b"tea"] * 10
        assert beta.calls[echo.UNARY] >= 10


def test_a_payment_whose_answer_is_lost_runs_once(mesh_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, beta = mesh_servers(2)
    monkeypatch.setenv("MESHLIB_SVC_A_ENDPOINTS", f"{alpha.address},{beta.address}")
    for server in (alpha, beta):
        server.fault(code="UNAVAILABLE", after=1, method=echo.CLIENT_STREAM)
    app = App()
    with app.channel, pytest.raises(grpc.RpcError):
        app.pay_for(b"tea", b"cake")
    assert alpha.calls[echo.CLIENT_STREAM] + beta.calls[echo.CLIENT_STREAM] == 1
