"""Application plug-ins, good and bad: a bad one is logged once, by name, and calls continue."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from tests.e2e.load import SHELLS, Load, Shell

import meshlib
from meshlib.balancing import Host, Picker, PickInfo, Report, register_balancer
from meshlib.discovery import Endpoint, Resolution, Target, register_resolver
from meshlib.testing import Server, echo, flush_logs, servers

DEADLINE = 10.0

both_shells = pytest.mark.parametrize("shell", SHELLS)


def endpoints(*all_servers: Server) -> tuple[Endpoint, ...]:
    """The resolver's endpoints for these servers."""
    return tuple(Endpoint(address=server.address) for server in all_servers)


def answers(shell: Shell, target: str, calls: int = 1, **options: Any) -> list[str]:
    """The names of the servers that answered ``calls`` calls, one after the other."""
    with Load(target, shell=shell, callers=1, **options) as load:
        load.wait_until(lambda: len(load.results) >= calls)
    assert load.failed == []
    return [str(result.server) for result in load.results[:calls]]


# --- resolvers ---


class InThread:
    """Blocks, as plain code does."""

    def __init__(self, *found: Endpoint) -> None:
        self.found = found
        self.threads: set[str] = set()
        self.asked: list[Resolution | None] = []

    def resolve(self, previous: Resolution | None) -> Resolution:
        self.threads.add(threading.current_thread().name)
        self.asked.append(previous)
        return Resolution(endpoints=self.found)


class OnLoop(InThread):
    """Awaits."""

    async def resolve(self, previous: Resolution | None) -> Resolution:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().resolve(previous)


@pytest.mark.parametrize("make", [InThread, OnLoop])
@both_shells
def test_a_resolver_is_one_method_def_or_async_def(shell: Shell, make: type[InThread]) -> None:
    """Either serves both kinds of channel; a blocking one has its own thread, never the caller's."""
    with servers(2) as both:
        resolver = make(*endpoints(*both))
        with Load("svc-a", shell=shell, callers=1, resolver=resolver) as load:
            load.wait_until(lambda: {result.server for result in load.results} == {"server-1", "server-2"})
        assert load.failed == []
        assert resolver.asked == [None]
        assert (make is InThread) == any("resolver" in name for name in resolver.threads)


class LongPoll:
    """Waits until its answer differs from ``previous``, as a watch does."""

    def __init__(self, *found: Endpoint) -> None:
        self._found = found
        self._changed = threading.Condition()
        self.polls = 0

    def put(self, *found: Endpoint) -> None:
        with self._changed:
            self._found = found
            self._changed.notify_all()

    def resolve(self, previous: Resolution | None) -> Resolution:
        self.polls += 1
        with self._changed:
            if previous is not None:
                self._changed.wait_for(lambda: self._found != previous.endpoints, DEADLINE)
            return Resolution(endpoints=self._found, ttl=0.0)


class AsyncLongPoll(LongPoll):
    """The same on the loop; it is cancelled with its channel."""

    async def resolve(self, previous: Resolution | None) -> Resolution:  # type: ignore[override]
        self.polls += 1
        while previous is not None and self._found == previous.endpoints:  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(0.005)
        return Resolution(endpoints=self._found, ttl=0.0)


@pytest.mark.parametrize("make", [LongPoll, AsyncLongPoll])
@both_shells
def test_a_long_poll_tells_changes_at_once(shell: Shell, make: type[LongPoll]) -> None:
    """With a TTL of 0 the next request follows the answer, limited by ``min_ttl``; and no call fails."""
    with servers(2) as (a, b):
        resolver = make(*endpoints(a))
        with Load("svc-a", shell=shell, callers=2, resolver=resolver, dns=meshlib.DnsPolicy(min_ttl=0.01)) as load:
            load.wait_for_calls(10)
            assert resolver.polls <= 2
            resolver.put(*endpoints(b))
            load.wait_until(lambda: load.results[-1].server == "server-2")
            resolver.put(*endpoints(a, b))
            load.wait_until(lambda: {result.server for result in load.results[-20:]} == {"server-1", "server-2"})
        resolver.put()  # frees the thread that still waits
        assert load.failed == []
        assert resolver.polls <= 6


class Bad:
    """Answers well at first, then badly as configured."""

    def __init__(self, found: tuple[Endpoint, ...], bad: Callable[[], Any]) -> None:
        self._found = found
        self._bad = bad
        self.asked = 0

    def resolve(self, previous: Resolution | None) -> Any:
        self.asked += 1
        return Resolution(endpoints=self._found) if self.asked == 1 else self._bad()


def _raises() -> None:
    raise RuntimeError("the registry is on fire")


def _exits() -> None:
    raise SystemExit(3)


BAD_ANSWERS: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (_raises, "raised RuntimeError: the registry is on fire"),
    "exits": (_exits, "SystemExit: 3"),
    "nothing": (lambda: None, "returned None, not a meshlib.discovery.Resolution"),
    "names": (lambda: ["10.0.0.1:1"], "not a meshlib.discovery.Resolution"),
    "host name": (
        lambda: Resolution(endpoints=(Endpoint(address="svc-b:1"),)),
        "address 'svc-b:1'; it must be IP:port or unix:path",
    ),
}


@pytest.mark.parametrize("how", BAD_ANSWERS)
@both_shells
def test_a_bad_answer_keeps_the_last_good_one(shell: Shell, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged once, with the name of the resolver, however often it occurs; no call fails."""
    bad, told = BAD_ANSWERS[how]
    with Server(name="a") as server:
        resolver = Bad(endpoints(server), bad)
        with (
            caplog.at_level(logging.WARNING, "meshlib"),
            Load("svc-a", shell=shell, callers=1, resolver=resolver, dns=meshlib.DnsPolicy(min_ttl=0.01)) as load,
        ):
            load.wait_for_calls(3)
            for asked in (1, 2):
                load.channel.mesh.resolve_now()
                load.wait_until(lambda asked=asked: resolver.asked > asked)  # type: ignore[misc]
                load.wait_until(lambda: load.channel.mesh.snapshot().next_resolution is not None)
            load.wait_for_calls(3)
            assert told in str(load.channel.mesh.snapshot().resolution_error)
        assert load.failed == []
    flush_logs()
    messages = [record.getMessage() for record in caplog.records if told in record.getMessage()]
    caplog.clear()  # their tracebacks hold the resolver
    assert len(messages) == 1
    assert f"{Bad.__module__}.Bad" in messages[0]


def test_a_resolver_that_never_answers_fails_no_other_and_holds_up_no_close() -> None:
    """A silent resolver's calls fail at their deadline with the reason; a channel beside it works, and both close."""
    asleep = threading.Event()

    class Silent:
        def resolve(self, previous: Resolution | None) -> Resolution:
            asleep.wait(DEADLINE)
            return Resolution(endpoints=())

    with Server() as server, meshlib.channel(f"static:///{server.address}") as good:
        with meshlib.channel("svc-a", resolver=Silent()) as bad:
            with pytest.raises(grpc.RpcError) as caught:
                bad.unary_unary(echo.UNARY)(b"x", timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "still being resolved" in caught.value.details()
            assert good.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE) == b"x"
        asleep.set()


@both_shells
def test_a_registered_scheme(shell: Shell) -> None:
    """The factory gets the parsed target, and the authority is the name in it."""
    seen: list[Target] = []
    with Server(name="a") as server:

        def factory(target: Target) -> InThread:
            seen.append(target)
            return InThread(*endpoints(server))

        register_resolver(f"e2e-{shell}", factory)
        assert answers(shell, f"e2e-{shell}://registry:99/svc-a?zone=x") == ["a"]
    (target,) = seen
    assert (target.scheme, target.nameserver) == (f"e2e-{shell}", "registry:99")


# --- balancers ---


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


# --- entry points ---

PLUGIN = """
from random import Random
from meshlib.balancing import Picker
from meshlib.discovery import Endpoint, Resolution

class Registry:
    def __init__(self, target):
        self.address = target.host
    def resolve(self, previous):
        return Resolution(endpoints=(Endpoint(address=self.address),))

class First:
    def picker(self, hosts, *, rng):
        return FirstPicker(hosts)

class FirstPicker(Picker):
    def __init__(self, hosts):
        self.hosts = hosts
    def pick(self, call, *, now):
        return self.hosts[0]
"""
ENTRY_POINTS = """
[meshlib.resolvers]
e2e-installed = e2e_plugin:Registry
e2e-broken = e2e_plugin:Missing
[meshlib.balancers]
e2e-first = e2e_plugin:First
"""
PROGRAM = """
import sys
import meshlib
from meshlib.testing import echo
for target, options in (
    ("e2e-broken:///x", {}),
    ("e2e-unknown:///x", {}),
    ("e2e-installed:///x", {"balancer": "e2e-firts"}),
):
    try:
        meshlib.channel(target, **options)
    except meshlib.ConfigError as error:
        print(error)
with meshlib.channel("e2e-installed:///" + sys.argv[1], balancer="e2e-first") as channel:
    print(channel.unary_unary(echo.UNARY)(b"served", timeout=10).decode())
"""


def test_installed_packages_register_by_entry_points(tmp_path: Path) -> None:
    """A resolver and a balancer of an installed package work by name; errors for unavailable ones list the others."""
    (tmp_path / "e2e_plugin.py").write_text(PLUGIN)
    information = tmp_path / "e2e_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: e2e-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    with Server() as server:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.address],
            capture_output=True,
            text=True,
            timeout=30,
            env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
            check=False,
        )
    assert done.returncode == 0, done.stderr
    broken, unknown, misspelt, served = done.stdout.splitlines()
    assert "entry point 'e2e_plugin:Missing' failed to load" in broken
    assert "unknown name; known:" in unknown
    assert "e2e-installed" in unknown
    assert "did you mean 'e2e-first'?" in misspelt
    assert served == "served"
