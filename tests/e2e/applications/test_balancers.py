"""Balancers of an application, good and bad: a bad one is logged once, by name, and calls continue."""

import logging
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.e2e.applications.plugins import DEADLINE, answers, both_shells
from tests.e2e.load import Load, Shell

from meshlib.balancing import Host, Picker, PickInfo, Report, register_balancer
from meshlib.testing import Server, echo, servers


class Bench(Picker):
    """A picker made of functions."""

    def __init__(self, pick: Callable[..., Any], done: Callable[..., Any] | None = None) -> None:
        self._pick = pick
        self._done = done

    def pick(self, call: PickInfo, *, now: float) -> Host | None:
        return self._pick(call)  # type: ignore[no-any-return]

    def done(self, host: Host, report: Report, *, now: float) -> None:
        if self._done is not None:
            self._done(host, report)


class Own:
    """A balancer made of a function from hosts to a picker."""

    def __init__(self, make: Callable[[tuple[Host, ...]], Any]) -> None:
        self._make = make

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Any:
        return self._make(hosts)


def _key(call: PickInfo, key: str) -> str:
    return str(dict(call.metadata)[key])


@both_shells
def test_a_balancer_of_ones_own_chooses(shell: Shell) -> None:
    """A custom balancer gets the hosts, each call's method and metadata, and each attempt's outcome."""
    reports: list[str] = []
    methods: set[str] = set()

    def make(hosts: tuple[Host, ...]) -> Picker:
        last = max(hosts, key=lambda host: host.endpoint.address)

        def pick(call: PickInfo) -> Host:
            methods.add(call.method)
            assert _key(call, echo.REQUEST_ID).startswith("request")
            assert all(isinstance(host.in_flight, int) and host.weight == 1 and host.healthy for host in hosts)
            return last

        return Bench(pick, lambda _, report: reports.append(report.code))

    with servers(3) as all_servers:
        target = "static:///" + ",".join(server.address for server in all_servers)
        expected = max(all_servers, key=lambda server: server.address)
        with Load(target, shell=shell, callers=1, balancer=Own(make)) as load:
            load.wait_until(lambda: load.ready() == 3)
            # A snapshot queries the connections; the picker may get the last one a bit later.
            load.wait_until(lambda: {result.server for result in load.results[-10:]} == {expected.name})
            load.wait_for_calls(10)
        assert {result.server for result in load.results[-10:]} == {expected.name}
    assert methods == {echo.UNARY}
    assert reports == ["OK"] * len(load.results)


def _no_picker(hosts: tuple[Host, ...]) -> None:
    raise RuntimeError("no picker today")


def _fails(*_: Any) -> Any:
    raise RuntimeError("no idea")


class Stale(Bench):
    """A picker with an invalid time for its rebuild."""

    stale_at = "soon"  # type: ignore[assignment]


# The fault, and the text of the message besides the name of the balancer.
BAD_BALANCERS: dict[str, tuple[Callable[[tuple[Host, ...]], Any], tuple[str, str]]] = {
    "picker() raises": (_no_picker, ("picker", "no picker today")),
    "picker() returns nonsense": (lambda _: 7, ("picker", "returned 7")),
    "pick() raises": (lambda _: Bench(_fails), ("pick", "no idea")),
    "pick() returns a name": (lambda _: Bench(lambda _: "host-1"), ("pick", "returned 'host-1'")),
    "done() raises": (lambda hosts: Bench(lambda _: hosts[0], _fails), ("done", "no idea")),
    "stale_at is nonsense": (lambda hosts: Stale(lambda _: hosts[0]), ("stale_at", "'soon'")),
}


@pytest.mark.parametrize("how", BAD_BALANCERS)
@both_shells
def test_a_bad_balancer_takes_no_call_down(shell: Shell, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Calls fall back to round robin; the fault is logged once with the name of the balancer."""
    make, told = BAD_BALANCERS[how]
    with servers(2) as both:
        target = "static:///" + ",".join(server.address for server in both)
        with (
            caplog.at_level(logging.ERROR, "meshlib"),
            Load(target, shell=shell, callers=2, balancer=Own(make)) as load,
        ):
            load.wait_until(lambda: load.ready() == 2)
            load.wait_for_calls(10)
            deadline = time.monotonic() + DEADLINE
            load.wait_until(lambda: bool(_errors(caplog)) or time.monotonic() > deadline)
            began = time.monotonic()
            load.wait_for_calls(20)
            if how.startswith("pick"):  # the picker may follow a snapshot a bit later
                load.wait_until(lambda: {result.server for result in load.since(began)} == {"server-1", "server-2"})
        assert load.failed == []
    errors = _errors(caplog)
    caplog.clear()  # their tracebacks hold the channel
    assert len(errors) == 1, errors
    for words in (target, "Own", *told):
        assert words in errors[0]


def _errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@both_shells
def test_a_registered_balancer(shell: Shell) -> None:
    """A registered balancer is selected by name, like the built-in ones."""

    class First:
        def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
            return Bench(lambda _: hosts[0])

    register_balancer(f"e2e-{shell}", First)
    with Server(name="a") as server:
        assert answers(shell, f"static:///{server.address}", balancer=f"e2e-{shell}") == ["a"]
