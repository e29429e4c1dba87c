"""A case: the same servers, faults and calls, once through Envoy and once through each shell of meshlib.

What is compared are figures, short texts by name, that ``Case.run`` makes of what it saw. Where chance has a part in
one, the case sorts it into classes so far apart that the same behaviour always falls into the same one.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tests.e2e.envoy.bootstrap import Service
from tests.e2e.envoy.callers import TIMEOUT, Caller, LoopCaller, Request, Result, ThreadCaller
from tests.e2e.envoy.proxy import Envoy

import meshlib
import meshlib.aio
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import ProcessServer, Server, echo

Figures = dict[str, str]

SHELLS = ("sync", "aio")
SECONDS = 10.0
"""How long what a case waits for may take."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison.

    Args:
        name: What ``docs/differences.toml`` knows it by.
        run: Makes the calls and tells the figures.
        expect: What Envoy shows. meshlib is to show the same, but for what is listed as a difference.
        envoy: Envoy's configuration.
        meshlib: Arguments of ``meshlib.channel`` that mean the same.
        servers: How many.
        weights: Of the servers; all 1 if not given.
        shells: Of meshlib; both, where it costs little. What balances is one piece of code for both.
        add: Registers further services of the servers.
        killable: The first server is a process of its own, which can be killed with calls inside.
    """

    name: str
    run: "Callable[[World], Figures]"
    expect: Figures
    envoy: Service = field(default_factory=Service)
    meshlib: Mapping[str, Any] = field(default_factory=dict)
    servers: int = 1
    weights: tuple[int, ...] = ()
    shells: tuple[str, ...] = SHELLS
    add: Callable[[grpc.Server], object] | None = None
    killable: bool = False

    @property
    def cluster(self) -> str:
        """Its name in Envoy, where a dot separates."""
        return self.name.replace(" ", "_").replace(".", "_").replace(",", "")

    def weighted(self, addresses: Sequence[str]) -> list[tuple[str, int]]:
        """The addresses of its servers, with their weights."""
        return list(zip(addresses[: self.servers], self.weights or (1,) * self.servers, strict=True))


class World:
    """What a case works on: its servers, and one channel to them.

    Args:
        name: Of the channel: ``envoy``, ``sync`` or ``aio``; request ids begin with it.
        servers: Serving.
        caller: Makes the calls.
        stats: Envoy's stats of the cluster; None if it is not Envoy.
    """

    def __init__(
        self, name: str, servers: list[Any], caller: Caller, stats: Callable[[], dict[str, int]] | None = None
    ) -> None:
        self.name = name
        self.servers = servers
        self._caller = caller
        self._stats = stats
        self._ids = itertools.count(1)

    def request(self, **what: Any) -> Request:
        """A call to make, with an id of its own."""
        return Request(id=f"{self.name}-{next(self._ids)}", **what)

    def call(self, **what: Any) -> Result:
        """Make one call; ``what`` is of ``Request``."""
        return self._caller.call(self.request(**what))

    def calls(self, n: int, **what: Any) -> list[Result]:
        """One after the other."""
        return [self.call(**what) for _ in range(n)]

    def start(self, n: int, **what: Any) -> "list[Future[Result]]":
        """All at once; they are under way, not ended."""
        return [self._caller.start(self.request(**what)) for _ in range(n)]

    def parallel(self, n: int, **what: Any) -> list[Result]:
        """All at once."""
        return [future.result((what.get("timeout") or TIMEOUT) + SECONDS) for future in self.start(n, **what)]

    def loop(self, n: int, callers: int, **what: Any) -> list[Result]:
        """``callers`` callers, each of which makes its next call when its last has ended; ``n`` calls in all."""
        results: list[Result] = []
        under_way = set(self.start(callers, **what))
        for left in range(n, 0, -1):
            ended = self._first(under_way)
            under_way.remove(ended)
            results.append(ended.result())
            if left > callers:
                under_way.update(self.start(1, **what))
        return results

    def _first(self, futures: "set[Future[Result]]") -> "Future[Result]":
        done, _ = wait(futures, TIMEOUT + SECONDS, FIRST_COMPLETED)
        return done.pop()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what happens elsewhere."""
        end = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: not in {SECONDS:g} s: {what}")
            time.sleep(0.002)

    def close(self) -> None:
        """Give the channel back."""
        self._caller.close()

    # --- what was seen ---

    def arrivals(self, *results: Result) -> list[int]:
        """How many attempts of these calls came to each server."""
        ids = {result.id for result in results}
        return [_arrivals(server, ids) for server in self.servers]

    def attempts(self, *results: Result) -> int:
        """How many attempts of these calls came to servers."""
        return sum(self.arrivals(*results))

    def retries(self, *results: Result) -> int:
        """How many attempts beyond the first, those that came to no server included, as who made them counts."""
        if self._stats is not None:
            return self._stats()["upstream_rq_retry"]
        return sum(result.attempts - 1 for result in results)

    def stat(self, name: str) -> int | None:
        """A counter of Envoy's; None if this is not Envoy."""
        return None if self._stats is None else self._stats()[name]

    def warm(self) -> None:
        """Call until every server has had a call: all connections are there."""
        warmed: list[Result] = []
        self.until(lambda: bool(warmed.append(self.call()) or all(self.arrivals(*warmed))), "a call to every server")


def _arrivals(server: Server | ProcessServer, ids: set[str]) -> int:
    if isinstance(server, ProcessServer):
        return sum(n for id_, n in server.executions.items() if id_ in ids)
    return sum(dict(received.metadata).get(echo.REQUEST_ID) in ids for received in server.received)


def codes(results: Sequence[Result]) -> str:
    """``OK 40, UNAVAILABLE 20``."""
    return ", ".join(f"{code} {n}" for code, n in sorted(Counter(result.code for result in results).items()))


def names(results: Sequence[Result]) -> str:
    """The servers that answered, in order, by their last letter: ``123123``."""
    return "".join("-" if result.server is None else result.server[-1] for result in results)


def between(value: float, classes: Mapping[str, tuple[float, float]]) -> str:
    """The class whose bounds, both included, ``value`` lies in; the value itself if in none."""
    return next((name for name, (low, high) in classes.items() if low <= value <= high), f"{value:g}")


@contextmanager
def envoys(case: Case, servers: list[Any], envoy: Envoy) -> Iterator[World]:
    """Through Envoy. The channel to it neither retries nor looks for a proxy of its own."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channel = grpc.insecure_channel(f"ipv4:{envoy.listeners[case.cluster]}", options)
    yield from _ready(World("envoy", servers, ThreadCaller(channel), lambda: envoy.stats(case.cluster)))


@contextmanager
def meshlibs(case: Case, servers: list[Any], shell: str) -> Iterator[World]:
    """Through meshlib."""
    endpoints = [Endpoint(address=at, weight=weight) for at, weight in case.weighted([s.address for s in servers])]
    given = {"resolver": _Given(endpoints), "retry": None} | dict(case.meshlib)
    caller: Caller
    if shell == "sync":
        caller = ThreadCaller(meshlib.channel("svc-a", **given))
    else:
        caller = LoopCaller(lambda: meshlib.aio.channel("svc-a", **given))
    yield from _ready(World(shell, servers, caller))


def _ready(world: World) -> Iterator[World]:
    try:
        for server in world.servers:
            server.start()  # where the last world left it stopped
        world.warm()
        yield world
    finally:
        for server in world.servers:
            if isinstance(server, Server):
                server.heal()
        world.close()


class _Given:
    """A resolver that names the servers of a case: weights have no place in a target."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._resolution = Resolution(endpoints=tuple(endpoints))

    def resolve(self, previous: Resolution | None) -> Resolution:
        """Always the same."""
        return self._resolution
