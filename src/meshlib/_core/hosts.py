"""Hosts of one channel: membership, connection states, and which of them can be picked.

A host that stays in the resolution keeps its connection, even if its weight or priority changes. A removed host gets no
new calls, drains, and closes after its last call. If it is resolved again before, it returns with its connection.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, final

from meshlib._core.balancing.priorities import Priorities, Tier, divided
from meshlib._core.commands import Close, Open
from meshlib._core.connectivity import CONNECTING, NAMES
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import ChannelEvent, EndpointsChanged, HostEjected, HostReturned, HostSpared, HostStateChanged
from meshlib._core.health.outlier import Outlier
from meshlib._core.health.unreachable import UnreachableHosts
from meshlib._core.host import HostEntry, Subchannel
from meshlib._core.snapshot import HostSnapshot

__all__ = ["HostSet"]

KNOWN: Final = 0.1
"""Seconds within which a loss reported by attempts and one found by a poll are the same: one re-resolution."""

Key = tuple[str, str | None, tuple[str, ...]]
"""Identity of a host: address, authority and alternatives. Its connection depends on all of them."""


@final
class HostSet:
    """Hosts of one channel, in the order they were first resolved. Changes, except :meth:`clear`, are part of a
    serialized step of the channel; queries are allowed at any time, also in the middle of a change.

    Args:
        events: receives events; None: they are not recorded.
    """

    __slots__ = (
        "_events",
        "_leaving",
        "_named",
        "_turn",
        "connected",
        "disconnected",
        "lost",
        "not_connected",
        "ready",
        "redialling",
        "seats",
        "unreachable",
        "version",
    )

    def __init__(self, events: deque[ChannelEvent] | None = None) -> None:
        self._events = events
        self._named: dict[Key, HostEntry] = {}
        self._leaving: dict[Key, HostEntry] = {}
        self._turn = 0
        self.ready = 0
        """Number of connected hosts."""
        self.seats: tuple[HostEntry, ...] = ()
        """Hosts that have a subchannel."""
        self.version = 0
        """Incremented when the hosts that can be picked change."""
        self.connected = 0
        """Connections established so far."""
        self.not_connected = 0
        """Connection attempts failed so far."""
        self.disconnected = 0
        """Connections ended so far."""
        self.lost = False
        """Set when a host fails; cleared by the consumer."""
        self.unreachable = UnreachableHosts()
        self.redialling: list[Open | Close] = []
        """Commands that redial hosts; emptied by the consumer."""

    def __len__(self) -> int:
        return len(self._named)

    def __iter__(self) -> Iterator[HostEntry]:
        return iter(self._named.values())

    @property
    def connections(self) -> int:
        """Number of open connections, including those of draining hosts."""
        return self.ready + sum(host.connected for host in tuple(self._leaving.values()))

    @property
    def named(self) -> Collection[HostEntry]:
        """All hosts except draining ones."""
        return self._named.values()

    # Changes.

    def replace(self, endpoints: tuple[Endpoint, ...], *, now: float) -> list[HostEntry]:
        """Replace the hosts by those of ``endpoints``; returns the ones that need a subchannel."""
        wanted: dict[Key, Endpoint] = {}
        for endpoint in endpoints:
            key = (endpoint.address, endpoint.authority, endpoint.alternatives)
            if key not in wanted or endpoint.priority < wanted[key].priority:
                wanted[key] = endpoint
        before = self._named
        added = [key for key in wanted if key not in before]
        removed = [key for key in before if key not in wanted]
        # A new dictionary, filled before it is published: a reader in the middle of this step sees one membership.
        named = {key: host for key, host in before.items() if key in wanted}
        to_open = []
        for key in removed:
            self._leave(key, before[key])
        for key, endpoint in wanted.items():
            host = named.get(key) or self._come_back(key)
            if host is None:
                host = HostEntry(endpoint)
                host.state_since = now
                to_open.append(host)
            elif host.subchannel is None and host.unreachable:
                self.set_state(host, CONNECTING, now=now)
                to_open.append(host)
            if host.endpoint != endpoint:
                host.endpoint = endpoint
                self.version += 1
            named[key] = host
        self._named = named
        if added or removed:
            self._seat()
            self.version += 1
            if self._events is not None:
                addresses = [tuple(address for address, *_ in keys) for keys in (added, removed)]
                self._events.append(EndpointsChanged(at=now, added=addresses[0], removed=addresses[1]))
        return to_open

    def opened(self, host: HostEntry, subchannel: Subchannel) -> bool:
        """Assign ``host`` its subchannel. Returns whether it is still needed."""
        if host.removed or host.subchannel is not None:
            return False
        host.subchannel = subchannel
        host.stamp += 1
        self._seat()
        return True

    def set_state(self, host: HostEntry, state: int, *, now: float) -> None:
        """Apply the connectivity state of ``host``."""
        before, was_connected = host.state, host.connected
        if not host.differs(state):
            return
        host.stamp += 1
        host.state = state
        host.state_since = now
        self.unreachable.changed(host, now=now)
        known = now - host.lost_at < KNOWN
        if was_connected:
            host.lost_at = now
            host.unasked = True
            self.disconnected += 1
        elif host.connected:
            host.failing = False
            host.last_error = ""
            self.connected += 1
        self.not_connected += host.unreachable
        if host.removed:
            return
        self.ready += host.connected - was_connected
        if self._events is not None:
            address = host.endpoint.address
            self._events.append(HostStateChanged(at=now, address=address, before=NAMES[before], after=NAMES[state]))
        if host.connected:
            self.version += 1
        elif host.begins_to_fail(was_connected=was_connected):
            host.failing = True
            self.lost = self.lost or not (known and was_connected)
            self.version += 1

    def seen(self, looks: Iterable[tuple[HostEntry, int, int]], *, now: float) -> None:
        """Apply polled states: the host, its stamp before the poll, the state. A state read before a change is
        ignored."""
        for host, stamp, state in looks:
            if host.stamp == stamp:
                self.set_state(host, state, now=now)

    def judged(self, found: Iterable[Outlier], *, now: float, alone: bool = False) -> None:
        """Record detected outliers. Ejected ones leave the picker, unless ``alone``."""
        for outlier in found:
            host, address = outlier.host, outlier.host.endpoint.address
            seconds = None if outlier.spared else host.ejected_until(now=now)
            if seconds is None:
                event: ChannelEvent = HostSpared(at=now, address=address, why=outlier.why, spared=outlier.spared)
            else:
                self.version += 1
                event = HostEjected(at=now, address=address, why=outlier.why, seconds=seconds, alone=alone)
            if self._events is not None:
                self._events.append(event)

    def returned(self, hosts: Iterable[HostEntry], *, now: float, alone: bool = False) -> None:
        """Record hosts that returned from ejection."""
        for host in hosts:
            self.version += 1
            if self._events is not None:
                self._events.append(HostReturned(at=now, address=host.endpoint.address, alone=alone))

    def redial(self) -> bool:
        """Redial every failing host that no call has needed since it lost its connection, without waiting for its
        back-off. grpc's own channel, idle by then, also dials at this call. Returns whether there are any."""
        again = [host for host in self.seats if host.waits_for_a_call]
        closing = []
        for host in again:
            close = Close(host)
            # A pick checks the subchannel and counts itself in flight without interruption, too.
            if host.in_flight:  # uninterrupted
                continue
            host.subchannel = None  # uninterrupted
            closing.append(close)
            host.unasked = False
            host.dials += 1
            host.stamp += 1
            host.state = CONNECTING
        self.redialling += (*(Open(close.host) for close in closing), *closing)
        if closing:
            self._seat()
        return bool(closing)

    def drained(self) -> list[HostEntry]:
        """Return the removed hosts whose last call has ended, to be closed; each is returned once."""
        closing = []
        for key in list(self._leaving) if self._leaving else ():
            host = self._leaving.get(key)
            if host is not None and host.in_flight == 0:
                self._leaving.pop(key, None)
                if host.subchannel is not None:
                    closing.append(host)
        self.disconnected += sum(host.connected for host in closing)
        return closing

    def clear(self) -> list[Close]:
        """Remove all hosts of a closing channel. Returns the commands that close their connections, also those of
        redialled hosts.

        Allowed in the middle of another step, which may add some again: then it is called again after that step.
        """
        none: dict[Key, HostEntry] = {}
        nobody: dict[Key, HostEntry] = {}
        nothing: list[Open | Close] = []
        named, leaving, redialling = self._named, self._leaving, self.redialling  # uninterrupted
        self._named = none  # uninterrupted
        self._leaving = nobody  # uninterrupted
        self.redialling = nothing  # uninterrupted
        # A host that is just being removed is in both.
        hosts = list(dict.fromkeys([*list(named.values()), *list(leaving.values())]))
        for host in hosts:
            host.removed = True
        self.disconnected += sum(host.connected for host in hosts)
        self.seats = ()
        self.ready = 0
        self.version += 1
        given_up = [command for command in redialling if isinstance(command, Close)]
        return [*given_up, *(Close(host) for host in hosts if host.subchannel is not None)]

    def mend(self) -> list[Open]:
        """Repair the state after an exception interrupted a step; returns the subchannels still to be opened."""
        named = self._named
        for key in list(self._leaving):
            host = self._leaving.get(key)
            if host is not None and named.get(key) is host:
                self._leaving.pop(key, None)
                host.removed = False
        self.ready = sum(host.connected for host in named.values())
        self._seat()
        self.version += 1
        return [Open(host) for host in named.values() if host.subchannel is None and not host.removed]

    # Queries.

    def tiers(self, priorities: Priorities, *, first: bool) -> tuple[Tier[HostEntry], ...]:
        """Tiers of hosts that can be picked, by priority.

        Args:
            priorities: the configuration.
            first: no picker was built yet. Then a higher priority that has not failed is worth the wait: it is about to
                connect.
        """
        tiers = divided(priorities, self, connected=attrgetter("connected"), sound=attrgetter("sound"))
        if first and tiers:
            best = tiers[0].priority
            if any(host.endpoint.priority < best and host.promising for host in self):
                return ()
        return tiers

    def reachable(self, *, ejected: bool) -> bool:
        """Whether any host is ready or may become ready.

        Args:
            ejected: ejected hosts count, too.
        """
        if self.ready and ejected:
            return True
        return any(not host.unreachable and (ejected or not host.ejected) for host in self)

    def failing(self, tried: Sequence[HostEntry]) -> HostEntry | None:
        """Pick a host that is not ready, so that the call fails with the true reason: round robin over the first
        priority, preferring hosts not ``tried``."""
        seats = [h for h in self.seats if not h.ejected and not h.removed and h.subchannel is not None]
        best = min((host.endpoint.priority for host in seats), default=0)
        alike = [host for host in seats if host.endpoint.priority == best]
        self._turn += 1
        order = [alike[(self._turn + step) % len(alike)] for step in range(len(alike))]
        return next((host for host in order if host not in tried), order[0] if order else None)

    def count(self) -> str:
        """Number of hosts by state, without addresses: for the details of errors."""
        states = Counter(host.condition for host in self)
        return ", ".join(f"{number} {state}" for state, number in sorted(states.items()))

    def describe(self) -> str:
        """First few hosts with their addresses and states: for the text of errors."""
        hosts = list(self)
        shown = [f"{host.endpoint.address} {host.condition}" for host in hosts[:3]]
        more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
        return f"{', '.join(shown)}{more}"

    def snapshot(self, *, now: float) -> tuple[HostSnapshot, ...]:
        """Snapshots of all hosts."""
        return tuple(
            HostSnapshot(
                address=host.endpoint.address,
                state=NAMES[host.state],
                in_flight=host.in_flight,
                weight=host.weight,
                priority=host.endpoint.priority,
                successes=host.successes,
                failures=host.failures,
                ejected_until=host.ejected_until(now=now),
                ejected_for=host.ejected_for,
                state_since=max(0.0, now - host.state_since),
                last_error=host.last_error,
            )
            for host in self
        )

    # Membership.

    def _seat(self) -> None:
        self.seats = tuple(host for host in self if host.subchannel is not None)

    def _leave(self, key: Key, host: HostEntry) -> None:
        host.removed = True
        self.ready -= host.connected
        self._leaving[key] = host

    def _come_back(self, key: Key) -> HostEntry | None:
        host = self._leaving.pop(key, None)
        if host is not None:
            host.removed = False
            self.ready += host.connected
        return host
