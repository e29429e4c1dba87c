"""The stage of a case: the same servers, faults and calls, once through Envoy, then through each shell of meshlib."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from tests.e2e.envoy.bootstrap import Host
from tests.e2e.envoy.callers import TIMEOUT, Caller, LoopCaller, Request, Result, ThreadCaller
from tests.e2e.envoy.case import Case
from tests.e2e.envoy.proxy import Envoy
from tests.e2e.relay import Relay
from tests.waiting import until

import meshlib
import meshlib.aio
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import DnsServer, Server, echo

SECONDS = 10.0
"""Seconds after which a wait of a case fails."""


class World:
    """The environment of a case: its servers, and one channel to them.

    Args:
        name: Of the channel: ``envoy``, ``sync`` or ``aio``; request ids begin with it.
        stage: Its stage.
        caller: Makes the calls.
        stats: Envoy's stats of the cluster; None without Envoy.
    """

    def __init__(
        self, name: str, stage: "Stage", caller: Caller, stats: Callable[[], dict[str, int]] | None = None
    ) -> None:
        self.name = name
        self.servers = stage.servers
        self.wire = stage.wire
        self.dns = stage.dns
        self.domain = stage.case.domain
        self._caller = caller
        self._first_tier = stage.case.priorities.count(0) or stage.case.servers
        self._stats = stats
        self._ids = itertools.count(1)

    def request(self, **what: Any) -> Request:
        """A call to make, with its own id."""
        return Request(id=f"{self.name}-{next(self._ids)}", **what)

    def call(self, **what: Any) -> Result:
        """Make one call; ``what`` is of ``Request``."""
        return self._caller.call(self.request(**what))

    def calls(self, n: int, **what: Any) -> list[Result]:
        """One after the other."""
        return [self.call(**what) for _ in range(n)]

    def start(self, n: int, **what: Any) -> "list[Future[Result]]":
        """Start ``n`` concurrent calls; returns while they are in flight."""
        return [self._caller.start(self.request(**what)) for _ in range(n)]

    def parallel(self, n: int, **what: Any) -> list[Result]:
        """Make ``n`` concurrent calls."""
        return [future.result((what.get("timeout") or TIMEOUT) + SECONDS) for future in self.start(n, **what)]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition is true, by polling."""
        until(condition, f"{self.name}: {what}", SECONDS)

    def close(self) -> None:
        """Close the channel."""
        self._caller.close()

    # --- observations ---

    def arrivals(self, *results: Result) -> list[int]:
        """Number of attempts of these calls at each server."""
        ids = {result.id for result in results}
        return [
            sum(dict(received.metadata).get(echo.REQUEST_ID) in ids for received in server.received)
            for server in self.servers
        ]

    def attempts(self, *results: Result) -> int:
        """Number of attempts of these calls at servers."""
        return sum(self.arrivals(*results))

    def retries(self, *results: Result) -> int:
        """Number of attempts beyond the first, by the client's count; it includes those that reached no server."""
        if self._stats is not None:
            return self._stats()["upstream_rq_retry"]
        return sum(max(0, result.attempts - 1) for result in results)

    @property
    def in_flight(self) -> int:
        """Number of attempts in flight, by the client's count."""
        if self._stats is not None:
            return self._stats()["upstream_rq_active"]
        return sum(host.in_flight for host in self._caller.channel.mesh.snapshot().hosts)

    @property
    def connections(self) -> int:
        """Number of connections to servers: one to each connected server."""
        if self._stats is not None:
            return self._stats()["upstream_cx_active"]
        return sum(host.state == "READY" for host in self._caller.channel.mesh.snapshot().hosts)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a connection."""
        if self._stats is not None:
            return self._stats()["upstream_rq_pending_active"]
        waiting: int = self._caller.channel.mesh.snapshot().waiting
        return waiting

    @property
    def connecting(self) -> bool:
        """Whether a connection is being made, or would be for a call."""
        if self._stats is not None:
            return True
        return any(host.state == "CONNECTING" for host in self._caller.channel.mesh.snapshot().hosts)

    @property
    def ejections(self) -> int:
        """Number of ejections so far."""
        if self._stats is not None:
            return self._stats()["outlier_detection.ejections_enforced_total"]
        ejections: int = self._caller.channel.mesh.snapshot().ejections
        return ejections

    def stop(self, server: Server) -> None:
        """Stop one server; returns when the other side has noticed."""
        left = self.connections - 1
        server.stop()
        self.until(lambda: self.connections == left, "its connection is gone")

    def warm(self) -> None:
        """Call until every server of the first tier has had a call that is part of no figure."""
        warmed: list[Result] = []

        def warm() -> bool:
            warmed.append(self.call())
            return all(self.arrivals(*warmed)[: self._first_tier])

        self.until(warm, "a call to every server")


@contextmanager
def staged(case: Case, addresses: Sequence[str], dns: DnsServer) -> "Iterator[Stage]":
    """The servers of a case, at the addresses that clients expect."""
    addresses = addresses[: case.servers]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server("127.0.0.1:0" if case.wired and n == 1 else address, name=f"server-{n}", add=case.add)
            )
            for n, address in enumerate(addresses, start=1)
        ]
        wire = stack.enter_context(Relay(servers[0].address, addresses[0])) if case.wired else None
        yield Stage(case, servers, list(addresses), wire, dns)


@dataclass(frozen=True)
class Stage:
    """The parts of a case that exist before any channel, shared by all.

    Args:
        case: Its case.
        servers: Its servers.
        addresses: Their addresses for clients; of one port, if they are named.
        wire: Relay before the first of them, if the case has one.
        dns: Has the name of the case while a world lasts.
    """

    case: Case
    servers: list[Server]
    addresses: list[str]
    wire: Relay | None
    dns: DnsServer

    def through_envoy(self, envoy: Envoy) -> AbstractContextManager[World]:
        """The channel to Envoy neither retries nor looks for a proxy of its own."""
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        cluster = self.case.cluster
        caller = ThreadCaller(grpc.insecure_channel(f"ipv4:{envoy.listeners[cluster]}", options))
        return self._ready(World("envoy", self, caller, lambda: envoy.stats(cluster)))

    def through_meshlib(self, shell: str) -> AbstractContextManager[World]:
        """The channel is meshlib's."""
        hosts = self.case.hosts(self.addresses)
        options: dict[str, Any] = {"retry": None, "outlier_detection": None} | dict(self.case.meshlib)
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
                server.start()  # if the last world left it stopped
            if self.wire is not None:
                self.wire.mend()
            if self.case.named:
                ips = [address.rpartition(":")[0] for address in self.addresses]
                self.dns.set(self.case.domain, "A", *ips)
            world.warm()
            yield world
        finally:
            for server in self.servers:
                server.heal()
            self.dns.heal()
            world.close()


class _Given:
    """A resolver that returns the servers of a case: a target cannot hold weights and priorities."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        endpoints = (Endpoint(address=host.address, weight=host.weight, priority=host.priority) for host in hosts)
        self._resolution = Resolution(endpoints=tuple(endpoints))

    def resolve(self, previous: Resolution | None) -> Resolution:
        """Always the same."""
        return self._resolution
