"""Demo of half a minute: servers behind SRV records are killed, restarted, added and removed under load;
no call fails.

Everything is real except the name server's zone, which is in this process: grpc servers in processes of their own,
killed with SIGKILL; SRV records queried over UDP; threads and asyncio tasks that call through two channels made by
one line each. Run it with ``./scripts/demo``.
"""

import asyncio
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

import meshlib
import meshlib.aio
from meshlib.testing import DnsServer, ProcessServer, echo

SERVICE = "_grpc._tcp.svc-a.demo.test"
CALLERS = 8  # threads, and as many asyncio tasks
HANDLER_MS = 20
RETRY = meshlib.RetryPolicy(max_attempts=4)


@dataclass
class Tally:
    """Results of the callers; updates hold the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    by_server: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    calls: int = 0
    failures: list[str] = field(default_factory=list)
    ids: "itertools.count[int]" = field(default_factory=itertools.count)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((echo.REQUEST_ID, str(next(self.ids))), (echo.DELAY_MS, str(HANDLER_MS)))

    def answered(self, server: str, attempts: int) -> None:
        with self.lock:
            self.calls += 1
            self.attempts += attempts
            self.by_server[server] += 1

    def failed(self, error: grpc.RpcError) -> None:
        with self.lock:
            self.calls += 1
            self.failures.append(f"{error.code().name}: {error.details()}")


def call_in_a_thread(channel: grpc.Channel, tally: Tally, stop: threading.Event) -> None:
    unary = channel.unary_unary(echo.UNARY)
    while not stop.is_set():
        try:
            _, call = unary.with_call(b"hello", timeout=5, metadata=tally.metadata())
        except grpc.RpcError as error:
            tally.failed(error)
        else:
            tally.answered(dict(call.initial_metadata())[echo.SERVER_NAME], len(call.mesh.attempts))


async def call_in_a_task(channel: grpc.aio.Channel, tally: Tally, stop: threading.Event) -> None:
    unary = channel.unary_unary(echo.UNARY)
    while not stop.is_set():
        call = unary(b"hello", timeout=5, metadata=tally.metadata())
        try:
            await call
        except grpc.RpcError as error:
            tally.failed(error)
        else:
            tally.answered(dict(await call.initial_metadata())[echo.SERVER_NAME], len(call.mesh.attempts))


async def call_in_tasks(target: str, tally: Tally, stop: threading.Event) -> None:
    async with meshlib.aio.channel(target, retry=RETRY) as channel:
        await asyncio.gather(*(call_in_a_task(channel, tally, stop) for _ in range(CALLERS)))


class Zone:
    """The servers and their DNS records."""

    def __init__(self, dns: DnsServer) -> None:
        self.dns = dns
        self.servers: dict[str, ProcessServer] = {}

    def start(self, name: str) -> None:
        server = self.servers[name] = ProcessServer(name=name)
        self.dns.add(f"{name}.demo.test", "A", "127.0.0.1")
        self.publish(name, server)

    def publish(self, name: str, server: ProcessServer) -> None:
        self.dns.add(SERVICE, "SRV", f"0 1 {server.port} {name}.demo.test.", ttl=1)

    def withdraw(self, name: str) -> None:
        self.dns.remove(SERVICE, "SRV", f"0 1 {self.servers[name].port} {name}.demo.test.")

    def kill(self, *names: str) -> None:
        for name in names:
            self.servers[name].kill()

    def restart(self, *names: str) -> None:
        for name in names:
            self.servers[name].start()

    def close(self) -> None:
        for server in self.servers.values():
            server.close()


def script(zone: Zone) -> list[tuple[float, str, Callable[[], object]]]:
    """Return the events and their times: seconds after the start of the load."""
    return [
        (2.0, "kill -9 alpha", lambda: zone.kill("alpha")),
        (4.0, "alpha comes back on its port", lambda: zone.restart("alpha")),
        (6.0, "delta starts and is added to DNS", lambda: zone.start("delta")),
        (9.0, "beta is taken out of DNS", lambda: zone.withdraw("beta")),
        (11.5, "beta, which nobody calls any more, is stopped", zone.servers["beta"].terminate),
        (12.5, "kill -9 gamma and delta at once", lambda: zone.kill("gamma", "delta")),
        (14.5, "gamma and delta come back", lambda: zone.restart("gamma", "delta")),
    ]


END = 17.0


def table(channel: meshlib.Channel, tally: Tally) -> list[str]:
    """Return the table of the channel's hosts and their results."""
    snapshot = channel.mesh.snapshot()
    with tally.lock:
        calls, attempts, failures = tally.calls, tally.attempts, len(tally.failures)
    lines = [f"  {'host':<22}{'state':<20}{'in flight':>10}{'ok':>8}{'failed attempts':>18}"]
    lines += [
        f"  {host.address:<22}{host.state:<20}{host.in_flight:>10}{host.successes:>8}{host.failures:>18}"
        for host in snapshot.hosts
    ]
    lines.append(f"  {calls} calls, {attempts - (calls - failures)} retries, {failures} failed")
    return lines


def show(lines: list[str], previous: int) -> int:
    """Draw the table over the last one; return its height."""
    up = f"\x1b[{previous}A" if previous else ""
    sys.stdout.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
    sys.stdout.flush()
    return len(lines)


def summary(zone: Zone, tally: Tally, seconds: float) -> int:
    """Print the summary; return the exit status."""
    executions: Counter[str] = Counter()
    for server in zone.servers.values():
        executions.update(server.executions)
    twice = sum(1 for times in executions.values() if times > 1)
    answered = tally.calls - len(tally.failures)
    print("\nSummary")
    print(f"  calls              {tally.calls} in {seconds:.1f} s, from {CALLERS} threads and {CALLERS} asyncio tasks")
    print(f"  failed             {len(tally.failures)}")
    print(f"  attempts per call  {tally.attempts / max(1, answered):.4f}")
    print(f"  run twice          {twice} (inside a server when it was killed; methods that must not: retry=None)")
    for name, count in sorted(tally.by_server.items()):
        print(f"  answered by {name:<7}{count:>7}  {100 * count / max(1, answered):5.1f} %")
    for failure in tally.failures[:5]:
        print(f"  ! {failure}")
    return 1 if tally.failures else 0


def main() -> int:
    live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    tally, stop = Tally(), threading.Event()
    with DnsServer() as dns:
        zone = Zone(dns)
        target = f"srv://{dns.address}/{SERVICE}"
        try:
            for name in ("alpha", "beta", "gamma"):
                zone.start(name)
            print(f"channel = meshlib.channel({target!r})\n")
            with meshlib.channel(target, retry=RETRY) as channel:
                callers = [
                    threading.Thread(target=call_in_a_thread, args=(channel, tally, stop)) for _ in range(CALLERS)
                ]
                callers.append(threading.Thread(target=lambda: asyncio.run(call_in_tasks(target, tally, stop))))
                started = time.monotonic()
                for caller in callers:
                    caller.start()
                try:
                    play(zone, channel, tally, started, live)
                finally:
                    stop.set()
                    for caller in callers:
                        caller.join(10)
                return summary(zone, tally, time.monotonic() - started)
        finally:
            zone.close()


def play(zone: Zone, channel: meshlib.Channel, tally: Tally, started: float, live: bool) -> None:
    """Run the events and show their effects."""
    height = 0
    for at, what, act in [*script(zone), (END, "", lambda: None)]:
        while (now := time.monotonic() - started) < at:
            if live:
                height = show(table(channel, tally), height)
            time.sleep(min(0.1 if live else at - now, at - now))
        if what:
            if not live:
                print("\n".join(table(channel, tally)))
            print(f"{at:5.1f} s  {what}", flush=True)
            height = 0
        act()


if __name__ == "__main__":
    sys.exit(main())
