"""The machine of one service in one channel: its hosts, which of them is chosen, and what the shell is to do about them.

Two kinds of thread use it. Callers come through :meth:`Cluster.pick` and :meth:`Cluster.report`, which take the lock, do
little and never wait. The control plane feeds it answers and timers and performs its commands. What a caller notices and the
control plane must act on (a host that went away, a drained one) is left as state, and ``attention`` is called.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random
from typing import TYPE_CHECKING, Any, Final, final

from meshlib._core.attempts.budget import Budget
from meshlib._core.balancing.contracts import Balancer, Picker, Report
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.commands import Close, ClusterCommand, Lookup, Open, Rebuild, StateChanged, Wake
from meshlib._core.connectivity import CONNECTING, IDLE, NAMES, READY, SHUTDOWN, TRANSIENT_FAILURE, aggregate
from meshlib._core.endpoint import Endpoint, Resolution, merged
from meshlib._core.events import (
    ChannelEvent,
    ChannelObserver,
    EndpointsChanged,
    HostStateChanged,
    PluginFailed,
    ResolutionFailed,
)
from meshlib._core.host import Host, Subchannel
from meshlib._core.policy import RetryBudget
from meshlib._core.snapshot import HostSnapshot
from meshlib._core.status import Outcome, local

if TYPE_CHECKING:
    from meshlib._core.call import Call

__all__ = ["CLOSED", "Cluster"]

Commands = tuple[ClusterCommand, ...]
Key = tuple[str, str | None]

SWEEP: Final = 0.1
"""Seconds between two looks at the connections of all hosts while nobody waits."""
WATCH_FIRST: Final = 0.0005
WATCH_LAST: Final = 0.02
"""The same while a call waits for a host: from the first value, doubling, to the last."""
REPICKS: Final = 3
"""How often a picker is asked again when it names a host this call has been to, before the others are searched."""

CLOSED: Final = local("CANCELLED", "Channel closed!")
"""What a waiting call is told when its channel closes: grpc's own words."""


@final
class Cluster:
    """The hosts of one channel.

    Args:
        name: the target as written, for messages.
        balancer: chooses among ready hosts of one priority.
        rng: every random choice of the channel.
        lock: guards every step; the shell's, so that the core names no thread.
        budget: of retries; None: no limit.
        attention: tells the control plane to call :meth:`on_timer` soon; called outside the lock.
        observer: hears the events of the channel.
    """

    def __init__(
        self,
        name: str,
        *,
        balancer: Balancer,
        rng: Random,
        lock: AbstractContextManager[Any],
        budget: RetryBudget | None,
        attention: Callable[[], None],
        observer: ChannelObserver | None = None,
    ) -> None:
        self.name = name
        self.rng = rng
        self.ready = 0
        self.in_flight = 0
        self.closed = False
        self.failure = ""
        """Why the last resolution failed; empty after a good one."""
        self.resolved = False
        """Whether the resolver has answered, well or not."""
        self.budget = Budget(budget)
        self.hosts: dict[Key, Host] = {}
        self.observer = observer
        self._balancer = balancer
        self._lock = lock
        self._attention = attention
        self._seats: tuple[Host, ...] = ()
        self._leaving: list[Host] = []
        self._drained: list[Host] = []
        self._picker: Picker | None = None
        self._done: Callable[..., None] | None = None
        self._last_picker: Picker | None = None
        self._rotation: tuple[Host, ...] = ()
        self._version = 0
        self._built = 0
        self._lookup = False
        self._turn = 0
        self._waiting: dict[Call, None] = {}
        self._resting: dict[Call, None] = {}
        self._connectivity = IDLE
        self._sweep_at = math.inf
        self._sweep_gap = SWEEP
        self._events: list[ChannelEvent] = []

    # What callers do.

    def pick(self, call: "Call", *, now: float, wait: bool = True) -> Host | Outcome | None:
        """The host for the next attempt of ``call``, its place counted.

        Returns:
            A host; or the outcome that ends the call, if nothing can be reached and it will not wait; or None, and then
            the call is registered to be woken (unless ``wait`` is False).
        """
        with self._lock:
            if self._resting:
                self._resting.pop(call, None)
            chosen = self._choose(call, now)
            if type(chosen) is Host:
                chosen.in_flight += 1
                self.in_flight += 1
            elif chosen is None and wait:
                self._wait(call, now)
            attention = self._version != self._built or (chosen is None and wait)
        if attention:
            self._attention()
        return chosen

    def report(self, host: Host, outcome: Outcome, seconds: float, *, now: float) -> None:
        """An attempt on ``host`` ended after ``seconds``; its place is free."""
        attention = False
        with self._lock:
            host.in_flight -= 1
            self.in_flight -= 1
            if outcome.code == "OK":
                host.successes += 1
            else:
                host.failures += 1
                if outcome.refused:
                    attention = self._look(host, now) or attention
            if self._done is not None:
                self._tell(host, Report(code=outcome.code, seconds=seconds), now)
            if host.removed and host.in_flight == 0:
                self._drained.append(host)
                attention = True
        if attention:
            self._attention()

    def leave(self, call: "Call") -> None:
        """``call`` waits no more."""
        with self._lock:
            self._waiting.pop(call, None)
            self._resting.pop(call, None)

    def acquire_retry(self, resting: "Call | None" = None) -> bool:
        """A place in the retry budget, if there is one. Either way the closing channel wakes ``resting``, a call that
        backs off now."""
        with self._lock:
            if resting is not None:
                self._resting[resting] = None
            return self.budget.acquire(self.in_flight + len(self._waiting) + 1)

    def refuse_retry(self) -> None:
        """A retry was not made, for want of a place."""
        with self._lock:
            self.budget.refused += 1

    def gone(self, host: Host, *, now: float) -> bool:
        """Whether ``host`` has lost its connection or left."""
        with self._lock:
            return self._look(host, now)

    def release_retry(self) -> None:
        """The place is free again."""
        with self._lock:
            self.budget.release()

    # What the control plane feeds it.

    def on_resolved(self, resolution: Resolution, *, now: float) -> Commands:
        """The resolver named endpoints, an answer that may be the same as before."""
        with self._lock:
            if self.closed:
                return ()
            self.resolved = True
            self.failure = "" if resolution.endpoints else "the resolver named no endpoint"
            commands = self._replace(merged(resolution.endpoints), now)
            commands.extend(self._settle(now))
        self._publish()
        return tuple(commands)

    def on_resolution_failed(self, reason: str, *, now: float) -> Commands:
        """The resolver failed: the last good endpoints stay."""
        with self._lock:
            if self.closed:
                return ()
            self.resolved = True
            if reason != self.failure:
                self._note(ResolutionFailed(at=now, reason=reason, kept=len(self.hosts)))
            self.failure = reason
            commands = self._settle(now)
        self._publish()
        return tuple(commands)

    def opened(self, host: Host, subchannel: Subchannel, *, now: float) -> Commands:
        """``host`` has a subchannel, which is connecting."""
        with self._lock:
            host.subchannel = subchannel
            if self.closed or host.removed:
                return (Close(host),)
            self._seat_all()
            self._watch(now)
        return ()

    def on_connectivity(self, host: Host, state: int, *, now: float) -> Commands:
        """The connection of ``host`` is in ``state`` now."""
        with self._lock:
            self._set_state(host, state, now)
            commands = self._settle(now)
        self._publish()
        return tuple(commands)

    def on_timer(self, *, now: float) -> Commands:
        """The time of :meth:`next_timer` has come, or ``attention`` was called."""
        changed: list[tuple[Host, int]] = []
        if now >= self._sweep_at:
            # Outside the lock: with thousands of hosts this is the one step that takes milliseconds.
            for host in self._seats:
                assert host.subchannel is not None
                state = host.subchannel.state(True)
                if state != host.state:
                    changed.append((host, state))
        with self._lock:
            if self.closed:
                return ()
            if now >= self._sweep_at:
                self._sweep_gap = min(self._sweep_gap * 2, WATCH_LAST) if self._waiting else SWEEP
                self._sweep_at = now + self._sweep_gap
            for host, state in changed:
                self._set_state(host, state, now)
            if self._picker is not None and now >= getattr(self._picker, "stale_at", math.inf):
                self._version += 1
            commands = self._settle(now)
        self._publish()
        return tuple(commands)

    def next_timer(self) -> float | None:
        """The monotonic second of the next :meth:`on_timer`, or None."""
        timer = self._sweep_at
        picker = self._picker
        if picker is not None:
            timer = min(timer, getattr(picker, "stale_at", math.inf))
        return None if timer == math.inf else timer

    def rebuild(self, *, now: float) -> Commands:
        """Makes a picker for the hosts of now. Runs the balancer's code, off the lock."""
        with self._lock:
            version = self._version
            hosts = self._eligible()
        picker = self._build(hosts, now) if hosts else None
        with self._lock:
            if self.closed:
                return ()
            if picker is not None:
                if self._last_picker is not None:
                    self._adopt(picker, self._last_picker, now)
                self._last_picker = picker
            self._picker = picker
            self._done = getattr(picker, "done", None) if _overrides(picker, "done") else None
            self._rotation = hosts
            self._built = version
            commands = self._settle(now)
            if picker is not None and self._waiting:
                commands.append(self._wake())
        self._publish()
        return tuple(commands)

    def close(self, *, now: float) -> Commands:
        """The channel closes: waiting calls end, every host is closed whatever it has in flight."""
        with self._lock:
            if self.closed:
                return ()
            self.closed = True
            self._picker = None
            self._rotation = ()
            self.ready = 0
            self._sweep_at = math.inf
            hosts = [host for host in (*self.hosts.values(), *self._leaving) if host.subchannel is not None]
            self.hosts.clear()
            self._leaving.clear()
            self._seats = ()
            self._connectivity = SHUTDOWN
            self._waiting.update(self._resting)
            self._resting.clear()
            commands: list[ClusterCommand] = [self._wake()] if self._waiting else []
        commands.extend(Close(host) for host in hosts)
        commands.append(StateChanged(SHUTDOWN))
        return tuple(commands)

    def snapshot(self) -> tuple[HostSnapshot, ...]:
        """The hosts as they are now."""
        with self._lock:
            return tuple(
                HostSnapshot(
                    address=host.endpoint.address,
                    state=NAMES[host.state],
                    in_flight=host.in_flight,
                    weight=host.weight,
                    priority=host.endpoint.priority,
                    successes=host.successes,
                    failures=host.failures,
                )
                for host in self.hosts.values()
            )

    @property
    def connectivity(self) -> int:
        """The channel's own state."""
        return self._connectivity

    def situation(self, *, now: float) -> str:
        """Why there is no host to send to, in words."""
        if not self.hosts:
            if not self.resolved:
                return f"{self.name!r} is still being resolved"
            return f"{self.name!r} has no endpoints: {self.failure}"
        shown = [f"{host.endpoint.address} {NAMES[host.state]}" for host in list(self.hosts.values())[:3]]
        more = f" and {len(self.hosts) - 3} more" if len(self.hosts) > 3 else ""
        stale = f"; the last resolution failed: {self.failure}" if self.failure else ""
        return f"no endpoint of {self.name!r} is ready: {', '.join(shown)}{more}{stale}"

    # Choosing, under the lock.

    def _choose(self, call: "Call", now: float) -> Host | Outcome | None:
        if self.closed:
            return CLOSED
        picker = self._picker
        if picker is not None:
            tried = call.tried
            for _ in range(REPICKS + 1):
                host = self._ask(picker, call, now)
                if host is None:
                    return None
                if host not in tried and not self._look(host, now):
                    return host
            found = self._search(tried, now)
            if found is not None:
                return found
        return self._without_picker(call)

    def _search(self, tried: list[Host], now: float) -> Host | None:
        """A ready host the picker did not come upon: one this call has not been to, else any."""
        again = None
        size = len(self._rotation)
        self._turn += 1
        for step in range(size):
            host = self._rotation[(self._turn + step) % size]
            if host.state != READY or host.removed or self._look(host, now):
                continue
            if host not in tried:
                return host
            again = again or host
        return again

    def _without_picker(self, call: "Call") -> Host | Outcome | None:
        """No host is ready. A call that does not wait for one is sent to a failing host all the same, once nothing is
        resolving or connecting any more: grpc refuses it within a millisecond, with the true reason."""
        if call.wait_for_ready or self.ready:
            return None
        if not self.hosts:
            if not self.resolved:
                return None
            return local("UNAVAILABLE", f"{self.name!r} has no endpoints: {self.failure}")
        if any(host.state != TRANSIENT_FAILURE for host in self.hosts.values()):
            return None
        first = min(host.endpoint.priority for host in self.hosts.values())
        failing = [host for host in self.hosts.values() if host.endpoint.priority == first]
        self._turn += 1
        order = [failing[(self._turn + step) % len(failing)] for step in range(len(failing))]
        return next((host for host in order if host not in call.tried), order[0])

    def _look(self, host: Host, now: float) -> bool:
        """Asks the connection of a host in the rotation; True if it is not usable after all."""
        if host.removed or host.subchannel is None:
            return True
        state = host.subchannel.state(True)
        if state != host.state:
            self._set_state(host, state, now)
        return state != READY

    def _wait(self, call: "Call", now: float) -> None:
        self._waiting[call] = None
        call.woken = False
        self._watch(now)

    def _watch(self, now: float) -> None:
        """Looks at the connections more often: somebody waits for one."""
        self._sweep_gap = WATCH_FIRST
        self._sweep_at = min(self._sweep_at, now + WATCH_FIRST)

    # The hosts, under the lock.

    def _replace(self, endpoints: tuple[Endpoint, ...], now: float) -> list[ClusterCommand]:
        """Makes the hosts those of ``endpoints``; a host that stays keeps its connection."""
        wanted = {(endpoint.address, endpoint.authority): endpoint for endpoint in reversed(endpoints)}
        commands: list[ClusterCommand] = []
        removed = [key for key in self.hosts if key not in wanted]
        added = [key for key in wanted if key not in self.hosts]
        for key in removed:
            host = self.hosts.pop(key)
            host.removed = True
            self.ready -= host.state == READY
            self._leaving.append(host)
            if host.in_flight == 0:
                self._drained.append(host)
        for key, endpoint in reversed(wanted.items()):
            host_or_none = self.hosts.get(key)
            if host_or_none is None:
                self.hosts[key], opened = self._seat(key, endpoint)
                if not opened:
                    commands.append(Open(self.hosts[key]))
            elif host_or_none.endpoint != endpoint:
                host_or_none.endpoint = endpoint
                self._version += 1
        if added or removed:
            self._version += 1
            self._seat_all()
            self._note(
                EndpointsChanged(at=now, added=tuple(key[0] for key in added), removed=tuple(key[0] for key in removed))
            )
        return commands

    def _seat_all(self) -> None:
        self._seats = tuple(host for host in self.hosts.values() if host.subchannel is not None)

    def _seat(self, key: Key, endpoint: Endpoint) -> tuple[Host, bool]:
        """A seat for a new endpoint, or the one it left a moment ago and whose connection still serves; and whether that
        is open."""
        for host in self._leaving:
            if (host.endpoint.address, host.endpoint.authority) == key and host not in self._drained:
                self._leaving.remove(host)
                host.removed = False
                host.endpoint = endpoint
                self.ready += host.state == READY
                return host, True
        return Host(endpoint), False

    def _set_state(self, host: Host, state: int, now: float) -> None:
        before = host.state
        if state == before:
            return
        host.state = state
        if host.removed:
            return
        self.ready += (state == READY) - (before == READY)
        self._note(
            HostStateChanged(at=now, address=host.endpoint.address, before=NAMES[before], after=NAMES[state])
        )
        if state == READY:
            host.failing = False
            self._version += 1
        elif not host.failing and (before == READY or state == TRANSIENT_FAILURE):
            host.failing = True
            self._lookup = True
            self._version += 1

    def _eligible(self) -> tuple[Host, ...]:
        """The ready hosts of the first priority that has one (RFC 2782), in the order they were named."""
        ready = [host for host in self.hosts.values() if host.state == READY]
        if not ready:
            return ()
        first = min(host.endpoint.priority for host in ready)
        if self._picker is None and any(
            host.endpoint.priority < first and not host.failing for host in self.hosts.values()
        ):
            # At the start a better tier that has not failed yet is worth the wait: it is about to connect.
            return ()
        return tuple(host for host in ready if host.endpoint.priority == first)

    def _settle(self, now: float) -> list[ClusterCommand]:
        """What the changes so far ask of the shell."""
        commands: list[ClusterCommand] = []
        while self._drained:
            host = self._drained.pop()
            if host in self._leaving:
                self._leaving.remove(host)
                if host.subchannel is not None:
                    commands.append(Close(host))
        if self._lookup:
            self._lookup = False
            commands.append(Lookup())
        if self._version != self._built:
            commands.append(Rebuild())
        elif self._waiting and self._hopeless():
            commands.append(self._wake())
        state = self._state()
        if state != self._connectivity:
            self._connectivity = state
            commands.append(StateChanged(state))
        if not self._seats:
            self._sweep_at = math.inf
        elif self._sweep_at == math.inf:
            self._sweep_at = now + SWEEP
        return commands

    def _hopeless(self) -> bool:
        """Whether calls that do not wait for a host should hear so now."""
        if not self.resolved or self.ready:
            return False
        return all(host.state == TRANSIENT_FAILURE for host in self.hosts.values())

    def _state(self) -> int:
        if self.hosts:
            return aggregate(host.state for host in self.hosts.values())
        return TRANSIENT_FAILURE if self.resolved else CONNECTING

    def _wake(self) -> Wake:
        calls = tuple(self._waiting)
        self._waiting.clear()
        return Wake(calls)

    # The balancer's code, and what happens when it fails.

    def _ask(self, picker: Picker, call: "Call", now: float) -> Host | None:
        try:
            host = picker.pick(call, now=now)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a call's
            self._failed("pick", error, now)
            return self._any()
        if host is None or type(host) is Host:
            return host
        self._failed("pick", f"returned {host!r}, which is none of its hosts", now)
        return self._any()

    def _any(self) -> Host:
        """What is chosen where a plug-in failed to choose: each in turn."""
        self._turn += 1
        return self._rotation[self._turn % len(self._rotation)]

    def _tell(self, host: Host, report: Report, now: float) -> None:
        assert self._done is not None
        try:
            self._done(host, report, now=now)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a call's
            self._failed("done", error, now)

    def _build(self, hosts: tuple[Host, ...], now: float) -> Picker:
        try:
            picker = self._balancer.picker(hosts, rng=self.rng)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a channel's
            with self._lock:
                self._failed("picker", error, now)
        else:
            if callable(getattr(picker, "pick", None)):
                return picker
            with self._lock:
                self._failed("picker", f"returned {picker!r}, which has no pick()", now)
        return RoundRobin().picker(hosts, rng=self.rng)

    def _adopt(self, picker: Picker, previous: Picker, now: float) -> None:
        adopt = getattr(picker, "adopt", None)
        if adopt is None or type(picker) is not type(previous):
            return
        try:
            adopt(previous, now=now)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a channel's
            self._failed("adopt", error, now)

    def _failed(self, doing: str, error: object, now: float) -> None:
        self._note(PluginFailed(at=now, name=type(self._balancer).__name__, doing=doing, error=error))

    # Events are noted under the lock and told outside it.

    def _note(self, event: ChannelEvent) -> None:
        if self.observer is not None:
            self._events.append(event)

    def _publish(self) -> None:
        observer = self.observer
        if observer is None:
            return
        with self._lock:
            events, self._events = self._events, []
        for event in events:
            observer.on_channel_event(event)

    def __repr__(self) -> str:
        return f"<Cluster {self.name} {self.ready} ready of {len(self.hosts)} {NAMES[self._connectivity]}>"


def _overrides(picker: Picker | None, method: str) -> bool:
    """Whether a picker does something in an optional method, rather than inherit the contract's empty one."""
    own = getattr(type(picker), method, None)
    return own is not None and own is not getattr(Picker, method)
