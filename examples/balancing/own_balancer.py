"""A custom balancer: instances in the caller's network first, all of them when too few are left there.

Calls between data centres or availability zones are slower and cost money. If each has its own subnet the
address tells which hosts are near, with any kind of discovery.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from random import Random

import meshlib
from meshlib.balancing import Balancer, Host, Picker, RoundRobin
from meshlib.testing import Server, echo


@dataclass(frozen=True, kw_only=True)
class NearFirst:
    """Sends calls only to the hosts inside ``network`` while there are at least ``at_least`` of them; else to all.

    Args:
        network: ``"10.0.1.0/24"``.
        at_least: with fewer near hosts all hosts share the load, so that no single one gets it all.
        among: balancer for the remaining hosts.
    """

    network: str
    at_least: int = 2
    among: Balancer = field(default_factory=RoundRobin)

    def __post_init__(self) -> None:
        ip_network(self.network)  # a mistake raises here, not at the first call

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Called outside the channel's lock, once per change of the hosts: do slow work here."""
        near = tuple(host for host in hosts if self.is_near(host))
        return self.among.picker(near if len(near) >= self.at_least else hosts, rng=rng)

    def is_near(self, host: Host) -> bool:
        """By address; a unix socket is always near."""
        kind, _, _ = host.endpoint.address.partition(":")
        if kind == "unix":
            return True
        ip = host.endpoint.address.rpartition(":")[0].strip("[]")
        return ip_address(ip) in ip_network(self.network)


def main() -> None:
    """Two servers near and two far, all on this machine; then one of the near ones stops."""
    with ExitStack() as stack:
        near = [stack.enter_context(Server(f"127.0.1.{n}:0")) for n in (1, 2)]
        far = [stack.enter_context(Server(f"127.0.2.{n}:0")) for n in (1, 2)]
        target = "static:///" + ",".join(server.address for server in (*near, *far))
        channel = stack.enter_context(meshlib.channel(target, balancer=NearFirst(network="127.0.1.0/24")))
        call = channel.unary_unary(echo.UNARY)

        def told(when: str) -> None:
            before = [server.calls.total() for server in (*near, *far)]
            for _ in range(100):
                call(b"hello", timeout=5)
            after = [server.calls.total() for server in (*near, *far)]
            counts = [new - old for new, old in zip(after, before, strict=True)]
            print(f"{when}: near {counts[:2]}, far {counts[2:]}")

        told("all are up")
        near[0].stop()
        told("a near one is gone")


if __name__ == "__main__":
    main()
