"""Priorities: failover to another network, at once when the near one is down, or gradually."""

import time
from collections.abc import Callable

import meshlib
from meshlib.balancing import Priorities
from meshlib.testing import DnsServer, Server, echo, servers

NAME = "_grpc._tcp.svc-a.mesh.test"
CALLS = 300


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what the example waits for did not come")
        time.sleep(0.01)


def run(title: str, balancer: object, dns: DnsServer, near: list[Server], far: list[Server]) -> None:
    """Count calls with all servers up, with one near server down, with both down, and with both back."""
    print(title)
    with meshlib.channel(f"srv://{dns.address}/{NAME}", balancer=balancer) as channel:
        call = channel.unary_unary(echo.UNARY)

        def connected() -> int:
            return sum(host.state == "READY" for host in channel.mesh.snapshot().hosts)

        def show(what: str, up: int) -> None:
            until(lambda: connected() == up)
            before = [server.calls.total() for server in near + far]
            for _ in range(CALLS):
                call(b"hello", timeout=5)
            given = [server.calls.total() - count for server, count in zip(near + far, before, strict=True)]
            print(f"  {what}: near {sum(given[:2])}, far {sum(given[2:])}")

        call(b"hello", timeout=5)
        show("all are up", 4)
        near[0].stop()
        show("one near server is gone", 3)
        near[1].stop()
        show("both are gone", 2)
        for server in near:
            server.start()
        show("they are back", 4)


def main() -> None:
    with DnsServer() as dns, servers(4) as instances:
        near, far = instances[:2], instances[2:]
        for server in instances:
            dns.add(f"{server.name}.mesh.test", "A", "127.0.0.1")
        # The first number is the priority: 0 before 1.
        records = [f"{int(server in far)} 1 {server.port} {server.name}.mesh.test" for server in instances]
        dns.add(NAME, "SRV", *records)
        run("strict, as RFC 2782 has it", "round_robin", dns, near, far)
        run("with overprovisioning, as Envoy has it", Priorities(), dns, near, far)


if __name__ == "__main__":
    main()
