"""A case: the same servers, faults and calls, once through Envoy and once through each shell of meshlib.

What is compared are figures, short texts by name, that ``Case.run`` makes of what it saw. Where chance has a part in
one, the case sorts it into classes so far apart that the same behaviour always falls into the same one.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tests.e2e.envoy.bootstrap import Host, Service
from tests.e2e.envoy.callers import TIMEOUT, Caller, LoopCaller, Request, Result, ThreadCaller
from tests.e2e.envoy.proxy import Envoy

import meshlib
import meshlib.aio
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import DnsServer, ProcessServer, Server, echo

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
        priorities: Of the servers; all 0 if not given.
        named: The servers are found by a name, in DNS.
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
    priorities: tuple[int, ...] = ()
    named: bool = False
    shells: tuple[str, ...] = SHELLS
    add: Callable[[grpc.Server], object] | None = None
    killable: bool = False

    @property
    def cluster(self) -> str:
        """Its name in Envoy, where a dot separates."""
        return self.name.replace(" ", "_").replace(".", "_").replace(",", "")

    @property
    def domain(self) -> str:
        """The name in DNS that is its own."""
        return f"{self.cluster.lower().replace('_', '-')}.mesh.test"

    def hosts(self, addresses: Sequence[str]) -> list[Host]:
        """Where its servers are."""
        if self.named:
            return [Host(address=f"{self.domain}:{addresses[0].rpartition(':')[2]}")]
        weights, priorities = self.weights or (1,) * self.servers, self.priorities or (0,) * self.servers
        return [
            Host(address=address, weight=weight, priority=priority)
            for address, weight, priority in zip(addresses[: self.servers], weights, priorities, strict=True)
        ]


class World:
    """What a case works on: its servers, and one channel to them.

    Args:
        name: Of the channel: ``envoy``, ``sync`` or ``aio``; request ids begin with it.
        stage: Where it happens.
        caller: Makes the calls.
        stats: Envoy's stats of the cluster; None if it is not Envoy.
    """

    def __init__(
        self, name: str, stage: "Stage", caller: Caller, stats: Callable[[], dict[str, int]] | None = None
    ) -> None:
        self.name = name
        self.servers = stage.servers
        self.dns = stage.dns
        self.domain = stage.case.domain
        self._caller = caller
        self._first_tier = stage.case.priorities.count(0) or stage.case.servers
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
        """Call until every server of the first tier has had a call that is part of no figure."""
        warmed: list[Result] = []

        def warm() -> bool:
            warmed.append(self.call())
            return all(self.arrivals(*warmed)[: self._first_tier])

        self.until(warm, "a call to every server")


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


@dataclass(frozen=True)
class Stage:
    """Where a case happens: what is there before any channel is, and for all of them.

    Args:
        case: Which.
        servers: Its servers; at one port, if they are named.
        dns: Knows the name of the case while a world lasts.
    """

    case: Case
    servers: list[Any]
    dns: DnsServer

    def through_envoy(self, envoy: Envoy) -> AbstractContextManager[World]:
        """The channel to Envoy neither retries nor looks for a proxy of its own."""
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        cluster = self.case.cluster
        caller = ThreadCaller(grpc.insecure_channel(f"ipv4:{envoy.listeners[cluster]}", options))
        return self._ready(World("envoy", self, caller, lambda: envoy.stats(cluster)))

    def through_meshlib(self, shell: str) -> AbstractContextManager[World]:
        """The channel is meshlib's."""
        hosts = self.case.hosts([server.address for server in self.servers])
        options: dict[str, Any] = {"retry": None} | dict(self.case.meshlib)
        if self.case.named:
            target = f"dns://{self.dns.address}/{hosts[0].address}"
        else:
            target, options["resolver"] = "svc-a", _Given(hosts)
        if shell == "sync":
            return self._ready(World(shell, self, ThreadCaller(meshlib.channel(target, **options))))
        return self._ready(World(shell, self, LoopCaller(lambda: meshlib.aio.channel(target, **options))))

    @contextmanager
    def _ready(self, world: World) -> Iterator[World]:
        try:
            for server in self.servers:
                server.start()  # where the last world left it stopped
            if self.case.named:
                addresses = [server.address.rpartition(":")[0] for server in self.servers]
                self.dns.set(self.case.domain, "A", *addresses)
            world.warm()
            yield world
        finally:
            for server in self.servers:
                if isinstance(server, Server):
                    server.heal()
            self.dns.heal()
            world.close()


class _Given:
    """A resolver that names the servers of a case: weights and priorities have no place in a target."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        endpoints = (Endpoint(address=host.address, weight=host.weight, priority=host.priority) for host in hosts)
        self._resolution = Resolution(endpoints=tuple(endpoints))

    def resolve(self, previous: Resolution | None) -> Resolution:
        """Always the same."""
        return self._resolution
