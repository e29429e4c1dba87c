"""The hosts of one channel: which there are, how their connections are, and which of them may be chosen.

A host that stays named keeps its connection, whatever becomes of its weight or priority. One that is named no more
leaves at once, serves the calls it has, and is closed when the last of them has ended; named again before that, it
comes back with its connection.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, final

from meshlib._core.balancing.priorities import Priorities, Tier, divided
from meshlib._core.commands import Close, Open
from meshlib._core.connectivity import CONNECTING, NAMES, READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import ChannelEvent, EndpointsChanged, HostEjected, HostReturned, HostSpared, HostStateChanged
from meshlib._core.health.outlier import Outlier
from meshlib._core.health.unreachable import UnreachableHosts
from meshlib._core.host import HostEntry, Subchannel
from meshlib._core.snapshot import HostSnapshot

__all__ = ["HostSet"]

KNOWN: Final = 0.1
"""Seconds for which a loss that attempts made known is the same as one that a look finds: names are looked up once."""

Key = tuple[str, str | None, tuple[str, ...]]
"""What tells two hosts apart: address, authority and alternatives. A connection is made to all of them."""


@final
class HostSet:
    """The hosts of one channel, in the order they were first named. What changes them is part of a serialized step of
    the channel, but for :meth:`clear`; questions may be put at any moment, also in the middle of a change.

    Args:
        events: takes what happened; None: nobody listens.
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
        """How many are connected."""
        self.seats: tuple[HostEntry, ...] = ()
        """Those that have a subchannel."""
        self.version = 0
        """Goes up whenever others than before may be chosen."""
        self.connected = 0
        """Connections that were made so far."""
        self.not_connected = 0
        """Those that could not be made."""
        self.disconnected = 0
        """Those that ended."""
        self.lost = False
        """One became failing; whoever acts on it takes the mark away."""
        self.unreachable = UnreachableHosts()
        self.redialling: list[Open | Close] = []
        """How the hosts that are dialled anew get there; whoever performs it empties it."""

    def __len__(self) -> int:
        return len(self._named)

    def __iter__(self) -> Iterator[HostEntry]:
        return iter(self._named.values())

    @property
    def connections(self) -> int:
        """Connections that stand, those of hosts that are leaving among them."""
        return self.ready + sum(host.state == READY for host in tuple(self._leaving.values()))

    @property
    def named(self) -> Collection[HostEntry]:
        """All but those that are leaving."""
        return self._named.values()

    # Changes.

    def replace(self, endpoints: tuple[Endpoint, ...], *, now: float) -> list[HostEntry]:
        """Makes the hosts those of ``endpoints``; returns the ones that need a subchannel."""
        wanted: dict[Key, Endpoint] = {}
        for endpoint in endpoints:
            key = (endpoint.address, endpoint.authority, endpoint.alternatives)
            if key not in wanted or endpoint.priority < wanted[key].priority:
                wanted[key] = endpoint
        before = self._named
        added = [key for key in wanted if key not in before]
        removed = [key for key in before if key not in wanted]
        # A new dictionary, filled before it is shown: whoever reads without the lock sees the hosts of one moment.
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
            elif host.subchannel is None and host.state == TRANSIENT_FAILURE:
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
        """``host`` has a subchannel. Returns whether it is still of use."""
        if host.removed or host.subchannel is not None:
            return False
        host.subchannel = subchannel
        host.stamp += 1
        self._seat()
        return True

    def set_state(self, host: HostEntry, state: int, *, now: float) -> None:
        """The connection of ``host`` is in ``state`` now."""
        before = host.state
        if state == before:
            return
        host.stamp += 1
        host.state = state
        host.state_since = now
        self.unreachable.changed(host, now=now)
        known = now - host.lost_at < KNOWN
        if before == READY:
            host.lost_at = now
            host.unasked = True
            self.disconnected += 1
        elif state == READY:
            host.failing = False
            host.last_error = ""
            self.connected += 1
        self.not_connected += state == TRANSIENT_FAILURE
        if host.removed:
            return
        self.ready += (state == READY) - (before == READY)
        if self._events is not None:
            address = host.endpoint.address
            self._events.append(HostStateChanged(at=now, address=address, before=NAMES[before], after=NAMES[state]))
        if state == READY:
            self.version += 1
        elif (not host.failing and before == READY) or (
            # One that was to be dialled anew and could not be opened, too: the resolver may know better by now.
            state == TRANSIENT_FAILURE and (not host.failing or host.subchannel is None)
        ):
            host.failing = True
            self.lost = self.lost or not (known and before == READY)
            self.version += 1

    def seen(self, looks: Iterable[tuple[HostEntry, int, int]], *, now: float) -> None:
        """Connections were looked at: the host, its stamp before the look, the state. A look that was overtaken by a
        change says nothing."""
        for host, stamp, state in looks:
            if host.stamp == stamp:
                self.set_state(host, state, now=now)

    def judged(self, found: Iterable[Outlier], *, now: float, alone: bool = False) -> None:
        """Outlier detection found these: those that are ejected leave the rotation, unless ``alone``."""
        for outlier in found:
            host, address = outlier.host, outlier.host.endpoint.address
            ejection = host.ejection
            if outlier.spared or ejection is None:
                event: ChannelEvent = HostSpared(at=now, address=address, why=outlier.why, spared=outlier.spared)
            else:
                self.version += 1
                seconds = ejection.until - now
                event = HostEjected(at=now, address=address, why=outlier.why, seconds=seconds, alone=alone)
            if self._events is not None:
                self._events.append(event)

    def returned(self, hosts: Iterable[HostEntry], *, now: float, alone: bool = False) -> None:
        """These are ejected no more."""
        for host in hosts:
            self.version += 1
            if self._events is not None:
                self._events.append(HostReturned(at=now, address=host.endpoint.address, alone=alone))

    def redial(self) -> bool:
        """Has every failing host that nobody has asked for since it lost its connection dialled anew, rather than wait
        for the end of its back-off: as grpc's own channel, which is idle then, would at this call. Whether there are
        any."""
        again = [host for host in self.seats if host.failing and host.unasked and host.subchannel is not None]
        closing = []
        for host in again:
            close = Close(host)
            # Whoever picks a host counts itself in if there is a subchannel: also without an interruption.
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
        """Those that left and whose last call has ended, to be closed; each is told once."""
        closing = []
        for key in list(self._leaving) if self._leaving else ():
            host = self._leaving.get(key)
            if host is not None and host.in_flight == 0:
                self._leaving.pop(key, None)
                if host.subchannel is not None:
                    closing.append(host)
        self.disconnected += sum(host.state == READY for host in closing)
        return closing

    def clear(self) -> list[Close]:
        """The channel closes: all are gone. Returns how their connections end, the given up ones among them.

        Also in the middle of another step, which may bring some back: then it is called again when that has ended.
        """
        none: dict[Key, HostEntry] = {}
        nobody: dict[Key, HostEntry] = {}
        nothing: list[Open | Close] = []
        named, leaving, redialling = self._named, self._leaving, self.redialling  # uninterrupted
        self._named = none  # uninterrupted
        self._leaving = nobody  # uninterrupted
        self.redialling = nothing  # uninterrupted
        # One that is just leaving is in both.
        hosts = list(dict.fromkeys([*list(named.values()), *list(leaving.values())]))
        for host in hosts:
            host.removed = True
        self.disconnected += sum(host.state == READY for host in hosts)
        self.seats = ()
        self.ready = 0
        self.version += 1
        given_up = [command for command in redialling if isinstance(command, Close)]
        return [*given_up, *(Close(host) for host in hosts if host.subchannel is not None)]

    def mend(self) -> list[Open]:
        """Puts right what a step may have left half done when an exception cut it short; returns what is still to be
        opened."""
        named = self._named
        for key in list(self._leaving):
            host = self._leaving.get(key)
            if host is not None and named.get(key) is host:
                self._leaving.pop(key, None)
                host.removed = False
        self.ready = sum(host.state == READY for host in named.values())
        self._seat()
        self.version += 1
        return [Open(host) for host in named.values() if host.subchannel is None and not host.removed]

    # Questions.

    def tiers(self, priorities: Priorities, *, first: bool) -> tuple[Tier[HostEntry], ...]:
        """Those that pickers may choose from, by priority.

        Args:
            priorities: which of them get calls.
            first: nobody has been chosen yet. Then a better priority that has not failed is worth the wait: it is about
                to connect.
        """
        tiers = divided(priorities, self, connected=_connected, sound=_sound)
        if first and tiers:
            best = tiers[0].priority
            if any(host.endpoint.priority < best and not host.failing for host in self):
                return ()
        return tiers

    def reachable(self, *, ejected: bool) -> bool:
        """Whether any may be, or become, ready.

        Args:
            ejected: one that is ejected counts, too.
        """
        if self.ready and ejected:
            return True
        return any(host.state != TRANSIENT_FAILURE and (ejected or host.ejection is None) for host in self)

    def failing(self, tried: Sequence[HostEntry]) -> HostEntry | None:
        """Where a call can be sent though nobody is ready, to learn the true reason: a host of the first priority, each
        in turn, and another than those ``tried`` where there is one."""
        seats = [h for h in self.seats if h.ejection is None and not h.removed and h.subchannel is not None]
        best = min((host.endpoint.priority for host in seats), default=0)
        alike = [host for host in seats if host.endpoint.priority == best]
        self._turn += 1
        order = [alike[(self._turn + step) % len(alike)] for step in range(len(alike))]
        return next((host for host in order if host not in tried), order[0] if order else None)

    def count(self) -> str:
        """How many are in which state, without their addresses: for the details of errors."""
        states = Counter("ejected" if host.ejection is not None else NAMES[host.state] for host in self)
        return ", ".join(f"{number} {state}" for state, number in sorted(states.items()))

    def describe(self) -> str:
        """The first few, with their addresses and states: for the text of errors."""
        hosts = list(self)
        shown = [
            f"{host.endpoint.address} {'ejected' if host.ejection is not None else NAMES[host.state]}"
            for host in hosts[:3]
        ]
        more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
        return f"{', '.join(shown)}{more}"

    def snapshot(self, *, now: float) -> tuple[HostSnapshot, ...]:
        """Each as it is now."""
        return tuple(
            HostSnapshot(
                address=host.endpoint.address,
                state=NAMES[host.state],
                in_flight=host.in_flight,
                weight=host.weight,
                priority=host.endpoint.priority,
                successes=host.successes,
                failures=host.failures,
                ejected_until=None if host.ejection is None else max(0.0, host.ejection.until - now),
                ejected_for="" if host.ejection is None else host.ejection.why,
                state_since=max(0.0, now - host.state_since),
                last_error=host.last_error,
            )
            for host in self
        )

    # Seats.

    def _seat(self) -> None:
        self.seats = tuple(host for host in self if host.subchannel is not None)

    def _leave(self, key: Key, host: HostEntry) -> None:
        host.removed = True
        self.ready -= host.state == READY
        self._leaving[key] = host

    def _come_back(self, key: Key) -> HostEntry | None:
        host = self._leaving.pop(key, None)
        if host is not None:
            host.removed = False
            self.ready += host.state == READY
        return host


def _connected(host: HostEntry) -> bool:
    return host.state == READY


def _sound(host: HostEntry) -> bool:
    """One that is about to connect counts as healthy: a channel that starts would panic else."""
    return not host.failing and host.ejection is None
