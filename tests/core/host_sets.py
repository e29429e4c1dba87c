"""Hosts without a cluster, and subchannels that are never called."""

from collections import deque
from dataclasses import dataclass

from meshlib._core.connectivity import READY
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import ChannelEvent
from meshlib._core.host import HostEntry
from meshlib._core.hosts import HostSet


@dataclass(frozen=True)
class Link:
    """A subchannel that is never called."""

    address: str

    def state(self, connect: bool) -> int:
        raise AssertionError("no change of the hosts reads a connection")

    def glance(self) -> int | None:
        raise AssertionError("no change of the hosts reads a connection")


def at(*addresses: str | Endpoint) -> tuple[Endpoint, ...]:
    """Endpoints at these addresses."""
    return tuple(each if isinstance(each, Endpoint) else Endpoint(address=each) for each in addresses)


def opened(*addresses: str | Endpoint, state: int = READY) -> tuple[HostSet, list[HostEntry], deque[ChannelEvent]]:
    """Hosts with subchannels, all in one state, and the events from then on."""
    events: deque[ChannelEvent] = deque()
    hosts = HostSet(events)
    for host in hosts.replace(at(*addresses), now=0.0):
        assert hosts.opened(host, Link(host.endpoint.address))
        hosts.set_state(host, state, now=0.0)
    events.clear()
    hosts.lost = False
    return hosts, list(hosts), events


def names(hosts: object) -> list[str]:
    """The addresses of hosts."""
    return [host.endpoint.address for host in hosts]  # type: ignore[attr-defined]
