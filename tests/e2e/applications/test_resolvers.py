"""Resolvers of an application, good and bad: a bad one is logged once, by name, and calls continue."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.e2e.applications.plugins import DEADLINE, answers, both_shells
from tests.e2e.load import Load, Shell

import meshlib
from meshlib.discovery import Endpoint, Resolution, Target, register_resolver
from meshlib.testing import Server, echo, flush_logs, servers


def endpoints(*all_servers: Server) -> tuple[Endpoint, ...]:
    """The resolver's endpoints for these servers."""
    return tuple(Endpoint(address=server.address) for server in all_servers)


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
        self._wake: Callable[[], object] = lambda: None
        self.polls = 0

    def put(self, *found: Endpoint) -> None:
        with self._changed:
            self._found = found
            self._changed.notify_all()
        self._wake()

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
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(changed.set)
        try:
            if previous is not None and self._found == previous.endpoints:
                await changed.wait()
        finally:
            self._wake = lambda: None
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
    """A silent resolver's calls fail at their deadline with the reason; another channel works, and both close."""
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
