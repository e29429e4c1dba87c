"""A balancer of our own: instances in the caller's network first, all of them when too few are left there.

Calls between data centres or availability zones are slower and cost money. Where each has a subnet of its own the
address says who is near, and any way of discovery will do.
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
    """Sends calls to the hosts inside ``network`` alone, as long as there are ``at_least`` so many; else to all.

    Args:
        network: ``"10.0.1.0/24"``.
        at_least: below so many near hosts all hosts share the load, lest one takes it all.
        among: chooses among those that are left.
    """

    network: str
    at_least: int = 2
    among: Balancer = field(default_factory=RoundRobin)

    def __post_init__(self) -> None:
        ip_network(self.network)  # a mistake is told where it is made, not at the first call

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Off the channel's lock, once a membership: this is the place for what takes time."""
        near = tuple(host for host in hosts if self.is_near(host))
        return self.among.picker(near if len(near) >= self.at_least else hosts, rng=rng)

    def is_near(self, host: Host) -> bool:
        """By address; a socket file is as near as can be."""
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
