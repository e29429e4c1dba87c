"""The fixture ``mesh_service``, and an environment that changes between two channels of a process."""

import asyncio
import os
import time
from collections.abc import Callable

import grpc
import pytest

import meshlib
from meshlib import aio
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import Server, echo

SOON = 10.0
VARIABLE = "MESHLIB_SVC_A_ENDPOINTS"

Start = Callable[..., list[Server]]


def call(channel: grpc.Channel) -> None:
    """Make one call, which the server in the current environment must answer."""
    assert channel.unary_unary(echo.UNARY)(b"x", timeout=SOON) == b"x"


@pytest.mark.parametrize("target", ["svc-a", "svc-a:50051", "srv:///_grpc._tcp.svc-a"])
def test_a_new_channel_sees_a_new_value_at_once(
    mesh_servers: Start, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Each test of a process has its own servers; a channel of an earlier test may still be open."""
    a, b = mesh_servers(2)
    monkeypatch.setenv(VARIABLE, a.address)
    with meshlib.channel(target) as before:
        call(before)
        monkeypatch.setenv(VARIABLE, b.address)
        for _ in range(2):
            with meshlib.channel(target) as channel:
                call(channel)
        assert (a.calls[echo.UNARY], b.calls[echo.UNARY]) == (1, 2)
        a.wait_until(lambda server: server.in_flight == 0)
        end = time.monotonic() + SOON
        while b.calls[echo.UNARY] < 4:  # the open channel reads it again, too
            assert time.monotonic() < end
            call(before)


async def test_a_new_asyncio_channel_sees_a_new_value_at_once(
    mesh_servers: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in asyncio; and back to the first value."""
    a, b = mesh_servers(2)
    async with aio.channel("svc-a") as before:
        for n, server in enumerate((a, b, a, b), 1):
            monkeypatch.setenv(VARIABLE, server.address)
            async with aio.channel("svc-a") as channel:
                await channel.unary_unary(echo.UNARY)(b"x", timeout=SOON)
            if n == 1:
                await before.unary_unary(echo.UNARY)(b"x", timeout=SOON)
        assert (a.calls[echo.UNARY], b.calls[echo.UNARY]) == (3, 2)


def test_a_resolver_of_ones_own_is_overridden_at_once(mesh_servers: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment precedes every resolver, shared or not."""
    a, b = mesh_servers(2)

    class Resolver:
        """Returns the first server."""

        def resolve(self, previous: Resolution | None) -> Resolution:
            return Resolution(endpoints=(Endpoint(address=a.address),))

    resolver = Resolver()
    with meshlib.channel("svc-a", resolver=resolver) as before:
        call(before)
        monkeypatch.setenv(VARIABLE, b.address)
        with meshlib.channel("svc-a", resolver=resolver) as channel:
            call(channel)
        monkeypatch.delenv(VARIABLE)
        with meshlib.channel("svc-a", resolver=resolver) as channel:
            call(channel)
    assert a.calls[echo.UNARY] >= 2
    assert b.calls[echo.UNARY] == 1


@pytest.mark.parametrize("run", range(3))
def test_a_channel_that_was_in_use_calls_the_new_servers(run: int, mesh_service: Start) -> None:
    """A used channel calls the new servers at once, even within a test."""
    with meshlib.channel("svc-a:50051") as channel:
        for _ in range(2):
            a, b = mesh_service("svc-a", 2)
            for _ in range(4):
                call(channel)
            assert a.calls[echo.UNARY] + b.calls[echo.UNARY] == 4
    assert os.environ[VARIABLE] == f"{a.address},{b.address}"
    assert [a.name, b.name] == ["svc-a-1", "svc-a-2"]


async def test_an_asyncio_channel_that_was_in_use_calls_the_new_servers(mesh_service: Start) -> None:
    """The same in asyncio, on the loop that the test runs on."""
    async with aio.channel("svc-a:50051") as channel:
        for _ in range(3):
            (a,) = mesh_service("svc-a", 1)
            await channel.unary_unary(echo.UNARY)(b"x", timeout=SOON)
            assert a.calls[echo.UNARY] == 1


def test_a_loop_that_is_between_two_runs(mesh_service: Start) -> None:
    """A fixture runs while the tests' loop does not: the endpoints are set before the next call."""
    with asyncio.Runner() as runner:
        channel: aio.Channel | None = None

        async def use() -> None:
            nonlocal channel
            channel = channel or aio.channel("svc-a")
            await channel.unary_unary(echo.UNARY)(b"x", timeout=SOON)

        async def close() -> None:
            assert channel is not None
            await channel.close()

        for _ in range(3):
            (a,) = mesh_service("svc-a", 1)
            runner.run(use())
            assert a.calls[echo.UNARY] == 1
        runner.run(close())


def test_it_registers_servicers(mesh_service: Start) -> None:
    """``add`` is that of ``Server``; the service has one server by default."""

    def add(server: grpc.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(lambda *_: b"hello")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pkg.Greeter", {"Greet": handler}),))

    (a,) = mesh_service("dns:///svc-a:50051", add=add)
    with meshlib.channel("svc-a") as channel:
        assert channel.unary_unary("/pkg.Greeter/Greet")(b"", timeout=SOON) == b"hello"
    assert a.calls["/pkg.Greeter/Greet"] == 1


@pytest.mark.parametrize("name", ["10.0.0.7:1", "static:///a:1", "unix:/a", "xds:///svc-a", ""])
def test_what_names_no_service_is_refused(mesh_service: Start, name: str) -> None:
    """Only host names are accepted, because the environment overrides nothing else."""
    with pytest.raises(ValueError, match=r"does not name a service|is empty"):
        mesh_service(name, 1)


def test_the_environment_is_as_before() -> None:
    """The tests above leave nothing behind."""
    assert VARIABLE not in os.environ
