"""The servers of a chaos run, the relays before them and the DNS that names them; each gets the schedule's faults."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, Self

from tests.e2e.chaos.schedule import DNS, GOAWAY, Epoch, Fault
from tests.e2e.goaway import GoawayServer
from tests.e2e.relay import Relay

from meshlib.testing import DnsServer, ProcessServer

ZONE: Final = "chaos.test"
SRV: Final = f"_grpc._tcp.{ZONE}"
NOBODY: Final = f"0 1 1 host.{ZONE}"
"""A record of a port without a listener."""
GRACE: Final = 0.2  # seconds that SIGTERM leaves to the calls inside


class Fleet:
    """Servers in processes of their own, running and healthy from the construction and after each ``suffer``.

    Args:
        hosts: number of servers.
        wired: number of servers, the first, with a relay before them.
    """

    def __init__(self, *, hosts: int, wired: int) -> None:
        with ExitStack() as stack:
            self.dns = stack.enter_context(DnsServer())
            with ThreadPoolExecutor(hosts) as pool:  # each takes half a second of CPU to start
                started = [
                    pool.submit(ProcessServer, name=f"server-{number}", grace=GRACE, workers=32)
                    for number in range(hosts)
                ]
            self.servers = [stack.enter_context(future.result()) for future in started]
            self._relays = [stack.enter_context(Relay(server.address)) for server in self.servers[:wired]]
            self._impostor = stack.enter_context(Relay(self.servers[0].address))
            self._impostor.refuse(True)
            self._stack = stack.pop_all()
        self.target = f"srv://{self.dns.address}/{SRV}"
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._lies: tuple[str, ...] | None = None
        self._further: tuple[str, ...] = ()
        self.dns.add(f"host.{ZONE}", "A", "127.0.0.1", ttl=60)
        self._name()

    @property
    def addresses(self) -> list[str]:
        """The client addresses of the hosts, by number."""
        return [
            self._relays[number].address if number < len(self._relays) else server.address
            for number, server in enumerate(self.servers)
        ]

    @property
    def executions(self) -> Counter[str]:
        """Number of handler runs for each request, on any host."""
        return sum((server.executions for server in self.servers), Counter[str]())

    def suffer(self, epoch: Epoch) -> None:
        """Inject the faults of the epoch; all is healed when it returns.

        A fault that takes too long delays the next one of its host, so that the order is kept.
        """
        began = time.monotonic()
        wheres = range(DNS, len(self.servers))
        with ThreadPoolExecutor(len(wheres)) as pool:
            for future in [pool.submit(self._in_turn, epoch, where, began) for where in wheres]:
                future.result()
            remaining = began + epoch.seconds - time.monotonic()
            if remaining > 0:
                time.sleep(remaining)  # the load's own pace, without faults

    def _in_turn(self, epoch: Epoch, where: int, began: float) -> None:
        for fault in epoch.of(where):

            def until(second: float) -> None:
                time.sleep(max(0.0, began + second - time.monotonic()))  # the pace of the schedule

            until(fault.at)
            if where != DNS:
                self._strike(where, fault, until)
            elif fault.kind == GOAWAY:
                self._go_away(fault, until)
            else:
                self._lie(fault, until, only=epoch.guardian is None)

    def _strike(self, number: int, fault: Fault, until: Callable[[float], None]) -> None:
        server = self.servers[number]
        if fault.kind in ("kill", "stop"):
            server.kill() if fault.kind == "kill" else server.terminate()
            until(fault.until)
            server.start()
        elif fault.kind == "flap":
            for _ in range(2):
                server.kill()
                server.start()
        elif fault.kind == "freeze":
            server.pause()
            until(fault.until)
            server.resume()
        else:
            self._tangle(self._relays[number], fault, until)

    def _tangle(self, relay: Relay, fault: Fault, until: Callable[[float], None]) -> None:
        second = fault.at
        if fault.kind == "black hole":
            relay.hold()
            until(fault.until)
            relay.release()
        elif fault.kind == "slow":
            relay.slow(fault.amount / 10_000)
            until(fault.until)
            relay.slow(0)
        elif fault.kind == "refuse":
            relay.refuse(True)
            until(fault.until)
            relay.refuse(False)
        else:
            while second < fault.until:  # at once, and every 100 ms
                relay.reset() if fault.kind == "reset" else relay.cut_after(fault.amount)
                second += 0.1
                until(second)
            relay.cut_after(None)

    # --- names ---

    def _name(self) -> None:
        """Set the current DNS records."""
        right = tuple(f"0 1 {address.rpartition(':')[2]} host.{ZONE}" for address in self.addresses)
        with self._lock:
            records = right if self._lies is None else self._lies
            self.dns.set(SRV, "SRV", *records, *self._further, ttl=0)

    def _lie(self, fault: Fault, until: Callable[[float], None], *, only: bool) -> None:
        if fault.kind == "silent":
            self.dns.fault(drop=True)
        elif fault.kind == "empty":
            self.dns.fault(rdtype="SRV", empty=True)
        elif fault.kind != "wrong":
            self.dns.fault(rcode=fault.kind)
        else:
            wrong = (NOBODY, f"0 1 {self._impostor.address.rpartition(':')[2]} host.{ZONE}")
            if only:
                self._lies = wrong
            else:
                self._further = wrong
            self._name()
        until(fault.until)
        self.dns.heal()
        self._lies, self._further = None, ()
        self._name()

    def _go_away(self, fault: Fault, until: Callable[[float], None]) -> None:
        with GoawayServer() as server:
            self._further = (f"0 1 {server.address.rpartition(':')[2]} host.{ZONE}",)
            self._name()
            until(fault.until)
            self._further = ()
            self._name()

    # --- life ---

    def close(self) -> None:
        """End everything; idempotent."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
