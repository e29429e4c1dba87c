"""The machine of one service in one channel: what it asks of the shell, and who waits for it.

Two kinds of thread use it. Callers come through :meth:`Cluster.pick` and :meth:`Cluster.report`, which take the lock,
do little and never wait. The control plane feeds it answers and timers and performs its commands. What a caller notices
and the control plane must act on (a host that went away, a drained one) is left as state, and ``attention`` is called.
"""

import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random
from typing import TYPE_CHECKING, Any, Final, final

from meshlib._core.attempts.admission import Admission
from meshlib._core.attempts.budget import Budget
from meshlib._core.attempts.policy import RetryBudget, RetryThrottling
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.balancing.rotation import Rotation
from meshlib._core.commands import Close, ClusterCommand, Lookup, Open, Rebuild, StateChanged, Wake
from meshlib._core.connectivity import CONNECTING, IDLE, NAMES, SHUTDOWN, aggregate
from meshlib._core.endpoint import Resolution, merged
from meshlib._core.events import ChannelEvent, ChannelObserver, PanicChanged, ResolutionFailed
from meshlib._core.health.outlier import Outliers
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.host import Host, Subchannel
from meshlib._core.hosts import Hosts
from meshlib._core.limits.breaker import Breaker
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.snapshot import HostSnapshot
from meshlib._core.status import Outcome, local
from meshlib._core.waiting import Waiting
from meshlib._core.watch import Watch

if TYPE_CHECKING:
    from meshlib._core.call import Call

__all__ = ["CLOSED", "Cluster"]

Commands = tuple[ClusterCommand, ...]

SWEPT_AT_ONCE: Final = 64
"""Connections looked at without giving the lock away: about 30 microseconds."""

CLOSED: Final = local("CANCELLED", "Channel closed!")
"""What a waiting call is told when its channel closes: grpc's own words."""


@final
class Cluster:
    """The hosts of one channel, who is chosen of them, and the calls that wait.

    Args:
        name: the target as written, for messages.
        balancer: chooses among the hosts of one priority; :class:`Priorities` says which that is, too.
        rng: every random choice of the channel.
        lock: guards every step; the shell's, so that the core names no thread.
        budget: of retries; None: no limit.
        throttling: of retries; None: no limit.
        outlier_detection: who is left out for a while; None: nobody.
        circuit_breaker: how much may be under way; None: no limit.
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
        throttling: RetryThrottling | None = None,
        outlier_detection: OutlierDetection | None = None,
        circuit_breaker: CircuitBreaker | None = None,
        observer: ChannelObserver | None = None,
    ) -> None:
        self.name = name
        self.rng = rng
        self.in_flight = 0
        self.closed = False
        self.failure = ""
        """Why the last resolution failed; empty after a good one."""
        self.resolved = False
        """Whether the resolver has answered, well or not."""
        self.resolutions = {"ok": 0, "failed": 0}
        """Answers and failures of the resolver so far."""
        self.breaker = Breaker(circuit_breaker)
        self.budget = Budget(budget, self.breaker.max_retries)
        self.outliers = None if outlier_detection is None else Outliers(outlier_detection, rng)
        self.panic: tuple[int, ...] = ()
        """Priorities whose ejected hosts are used as well."""
        self.observer = observer
        self._events: deque[ChannelEvent] | None = None if observer is None else deque()
        self.hosts = hosts = Hosts(self._events)
        self._usable = hosts.usable
        if not isinstance(balancer, Priorities):
            balancer = Priorities(balancer=balancer, overprovisioning_factor=None)
        self._priorities = balancer
        self._lock = lock
        self._attention = attention
        self.connectivity = IDLE
        """The channel's own state."""
        self._rotation: Rotation | None = None
        self._previous: Rotation | None = None
        """The last one there was, for the next to carry on from."""
        self._built = 0
        """Version of the hosts that the rotation is for."""
        self._seen = 0
        """Version of the hosts that the control plane has been told of."""
        self._waiting = waiting = Waiting()
        throttle = None if throttling is None else Throttle(throttling)
        self.retries = Admission(
            lock,
            self.budget,
            throttle,
            waiting,
            active=lambda: self.in_flight + len(waiting.calls),
            note=self.note,
        )
        self._watch = Watch()
        self._called = 0
        """Attempts that had ended at the last sweep."""
        self._stale_at = math.inf

    # What callers do.

    def pick(self, call: "Call", now: float, *, wait: bool = True) -> Host | Outcome | None:
        """The host for the next attempt of ``call``, its place counted.

        Returns:
            A host; or the outcome that ends the call, if nothing can be reached and it will not wait, or the circuit
            breaker refuses it; or None, and then the call is registered to be woken (unless ``wait`` is False).
        """
        waiting = self._waiting
        with self._lock:
            if waiting.calls or waiting.resting:
                waiting.forget(call)
            rotation = self._rotation
            chosen: Host | Outcome | None = None if rotation is None else rotation.pick(call, self._usable, now)
            if chosen is None:
                chosen = self._pick_failing(call, wait)
            attention = False
            if type(chosen) is Host:
                in_flight = self.in_flight
                if in_flight < self.breaker.max_requests:
                    chosen.in_flight += 1
                    self.in_flight = in_flight + 1
                else:
                    chosen = self.breaker.refuse_request(self.note, now=now)
            elif chosen is None and wait:
                chosen = self._wait(call, now)
                attention = chosen is None
            version = self.hosts.version
            if version != self._seen:
                self._seen = version
                attention = True
        if attention:
            self._attention()
        return chosen

    def report(self, host: Host, outcome: Outcome, seconds: float, now: float) -> str:
        """An attempt on ``host`` ended after ``seconds``; its place is free.

        Returns:
            Why that had the host ejected; empty: it had not.
        """
        ejected = ""
        with self._lock:
            host.in_flight -= 1
            self.in_flight -= 1
            if outcome.code == "OK":
                host.successes += 1
                judged = host.struck
            else:
                host.failures += 1
                judged = True
                if outcome.code == "UNAVAILABLE":
                    self.hosts.usable(host, now=now)
            rotation = self._rotation
            if rotation is not None and rotation.listens:
                rotation.report(host, outcome.code, seconds, now=now)
            if judged and self.outliers is not None:
                ejected = self._judge(self.outliers, host, outcome, now - seconds, now)
            attention = host.removed and host.in_flight == 0
            if self._waiting.calls and rotation is not None:
                attention = self._waiting.freed = True
            version = self.hosts.version
            if version != self._seen:
                self._seen = version
                attention = True
        if attention:
            self._attention()
        return ejected

    def leave(self, call: "Call") -> None:
        """``call`` waits no more, neither for a host nor for its next attempt."""
        with self._lock:
            self._waiting.forget(call)

    def lost(self, host: Host, *, since: float, now: float) -> bool:
        """Whether ``host`` has left, or has been without its connection at any time since then."""
        with self._lock:
            return not self.hosts.usable(host, now=now) or host.lost_at >= since

    def note(self, event: ChannelEvent) -> None:
        """Tells ``event`` to whoever listens, with the next step of the control plane."""
        if self._events is not None:
            self._events.append(event)

    # What the control plane feeds it.

    def on_resolved(self, resolution: Resolution, *, now: float) -> Commands:
        """The resolver named endpoints, an answer that may be the same as before."""
        with self._lock:
            if self.closed:
                return ()
            self.resolved = True
            self.resolutions["ok"] += 1
            self.failure = "" if resolution.endpoints else "the resolver named no endpoint"
            if self.outliers is not None:
                self.outliers.begin(now=now)
            to_open = self.hosts.replace(merged(resolution.endpoints), now=now)
            commands = self._settle(now)
        self._publish()
        return (*map(Open, to_open), *commands)

    def on_resolution_failed(self, reason: str, *, now: float) -> Commands:
        """The resolver failed: the last good endpoints stay."""
        with self._lock:
            if self.closed:
                return ()
            self.resolved = True
            self.resolutions["failed"] += 1
            if reason != self.failure:
                self.note(ResolutionFailed(at=now, reason=reason, kept=len(self.hosts)))
            self.failure = reason
            commands = self._settle(now)
        self._publish()
        return tuple(commands)

    def opened(self, host: Host, subchannel: Subchannel, *, now: float) -> Commands:
        """``host`` has a subchannel, which is to connect."""
        with self._lock:
            if not self.hosts.opened(host, subchannel):
                return (Close(host),)
            self._watch.hurry(now=now)
        return ()

    def on_connectivity(self, host: Host, state: int, *, now: float) -> Commands:
        """The connection of ``host`` is in ``state`` now."""
        with self._lock:
            if self.closed:
                return ()
            self.hosts.set_state(host, state, now=now)
            commands = self._settle(now)
        self._publish()
        return tuple(commands)

    def on_timer(self, *, now: float) -> Commands:
        """The time of :meth:`next_timer` has come, or ``attention`` was called."""
        swept = now >= self._watch.at
        if swept:
            self._sweep(now)
        with self._lock:
            if self.closed:
                return ()
            if swept:
                self._watch.looked(
                    len(self.hosts.seats), waiting=bool(self._waiting.calls), quiet=self._quiet(), now=now
                )
            if self.outliers is not None and now >= self.outliers.sweep_at:
                returned, found = self.outliers.sweep(self.hosts.named, now=now)
                self.hosts.returned(returned, now=now)
                self.hosts.judged(found, now=now)
            if now >= self._stale_at:
                self.hosts.version += 1
            commands = self._settle(now)
        self._publish()
        return tuple(commands)

    def next_timer(self) -> float | None:
        """The monotonic second of the next :meth:`on_timer`, or None."""
        if self.closed:
            return None
        sweep_at = math.inf if self.outliers is None else self.outliers.sweep_at
        timer = min(self._watch.at, self._stale_at, sweep_at)
        return None if timer == math.inf else timer

    def rebuild(self, *, now: float) -> Commands:
        """Makes pickers for the hosts of now. Runs the balancer's code, off the lock."""
        with self._lock:
            version = self.hosts.version
            if self.closed or version == self._built:
                return ()
            tiers = self.hosts.tiers(self._priorities, first=self._previous is None)
        rotation = None
        if tiers:
            rotation = Rotation(self._priorities.balancer, tiers, rng=self.rng, events=self._events, now=now)
        with self._lock:
            if self.closed:
                return ()
            if rotation is not None:
                if self._previous is not None:
                    rotation.adopt(self._previous, now=now)
                self._previous = rotation
            self._rotation = rotation
            self._built = version
            self._stale_at = math.inf
            self._waiting.freed = rotation is not None
            # With nobody connected there is nothing new to say of it.
            if rotation is not None and rotation.panic != self.panic:
                self.panic = rotation.panic
                self.note(PanicChanged(at=now, priorities=self.panic))
            commands = self._settle(now)
        self._publish()
        return tuple(commands)

    def close(self, *, now: float) -> Commands:
        """The channel closes: waiting calls are woken, every host is closed whatever it has in flight."""
        with self._lock:
            if self.closed:
                return ()
            self.closed = True
            self._rotation = self._previous = None
            self.panic = ()
            self.connectivity = SHUTDOWN
            closing = self.hosts.clear()
            self._seen = self.hosts.version
            calls = self._waiting.take_all()
        self._publish()
        return (*((Wake(calls),) if calls else ()), *closing, StateChanged(SHUTDOWN))

    # What is known.

    @property
    def ready(self) -> int:
        """How many hosts are connected."""
        return self.hosts.ready

    def situation(self) -> str:
        """Why there is no host to send to, in words."""
        if self.hosts:
            stale = f"; the last resolution failed: {self.failure}" if self.failure else ""
            return f"no endpoint of {self.name!r} is ready: {self.hosts.describe()}{stale}"
        if not self.resolved:
            return f"{self.name!r} is still being resolved"
        return f"{self.name!r} has no endpoints: {self.failure}"

    @property
    def waiting(self) -> int:
        """How many calls wait for a host."""
        return len(self._waiting.calls)

    def snapshot(self, *, now: float) -> tuple[HostSnapshot, ...]:
        """The hosts as they are now."""
        with self._lock:
            return self.hosts.snapshot(now=now)

    def __repr__(self) -> str:
        return f"<Cluster {self.name} {self.ready} ready of {len(self.hosts)} {NAMES[self.connectivity]}>"

    # Steps, under the lock.

    def _pick_failing(self, call: "Call", wait: bool) -> Host | Outcome | None:
        """The rotation has no host. A call that does not wait for one is sent to a failing host all the same, once
        nothing is resolving or connecting any more: grpc refuses it within a millisecond, with the true reason."""
        if self.closed:
            return CLOSED
        if not self.resolved or self._reachable() or (wait and self.hosts.redialled()) or call.wait_for_ready:
            return None
        return self.hosts.failing(call.tried) or local("UNAVAILABLE", self.situation())

    def _wait(self, call: "Call", now: float) -> Outcome | None:
        """``call`` waits for a host, unless too many do."""
        alone = not self._waiting.calls
        if not self._waiting.add(call, most=self.breaker.max_pending_requests):
            return self.breaker.refuse_waiting(self.note, now=now)
        if alone:
            self._watch.hurry(now=now)
        return None

    def _reachable(self) -> bool:
        return self.hosts.reachable(ejected=self._priorities.healthy_panic_threshold > 0)

    def _judge(self, outliers: Outliers, host: Host, outcome: Outcome, start: float, now: float) -> str:
        """What the end of an attempt says of its host: nothing, if it was cancelled, made here or never sent."""
        if outcome.code == "OK":
            outliers.answered(host)
            return ""
        if outcome.local or outcome.refused or outcome.code == "CANCELLED" or host.removed:
            return ""
        if outcome.code == "UNAVAILABLE" and not outcome.answered:
            # The calls that a connection takes with it are one failure of its host, not as many: else every crash of a
            # busy server had it ejected, and left out when it is back.
            if start <= host.record.broke_at:
                return ""
            host.record.broke_at = now
        found = outliers.failed(host, outcome, self.hosts.named, now=now)
        self.hosts.judged(found, now=now)
        return "" if not found or host.ejection is None else host.ejection.why

    def _sweep(self, now: float) -> None:
        """Looks at every connection; takes the lock itself, and gives it away in between: there may be thousands."""
        seats = self.hosts.seats
        for first in range(0, len(seats), SWEPT_AT_ONCE):
            with self._lock:
                for host in seats[first : first + SWEPT_AT_ONCE]:
                    self.hosts.usable(host, now=now)

    def _quiet(self) -> bool:
        """Whether every host is connected, and nobody has called since this was last asked."""
        called, self._called = self._called, sum(host.successes + host.failures for host in self.hosts.seats)
        return called == self._called and not self.in_flight and self.ready == len(self.hosts.seats)

    def _settle(self, now: float) -> list[ClusterCommand]:
        """What the changes so far ask of the shell."""
        hosts = self.hosts
        commands: list[ClusterCommand] = [Close(host) for host in hosts.drained()]
        commands += hosts.redialling
        hosts.redialling.clear()
        if hosts.lost:
            hosts.lost = False
            commands.append(Lookup())
        self._seen = hosts.version
        if hosts.version != self._built:
            commands.append(Rebuild())
            self._stale_at = math.inf
        elif self._rotation is not None:
            self._stale_at = self._rotation.stale_at(now=now)
        calls = self._waiting.take(lambda: not self.resolved or self._reachable())
        if calls:
            commands.append(Wake(calls))
        state = aggregate(host.state for host in hosts) if hosts or self.resolved else CONNECTING
        if state != self.connectivity:
            self.connectivity = state
            commands.append(StateChanged(state))
        self._watch.settle(seats=bool(hosts.seats), now=now)
        return commands

    # Events are noted under the lock and told outside it.

    def _publish(self) -> None:
        if self.observer is not None:
            while self._events:
                self.observer.on_channel_event(self._events.popleft())
