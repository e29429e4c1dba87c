"""The machine of one service in one channel: what it asks of the shell, and who waits for it.

Two kinds of thread use it. Callers come through :meth:`Cluster.pick` and :meth:`Cluster.report`, which do little and
never wait. The control plane feeds it answers and timers and performs its commands. What a caller notices and the
control plane must act on (a host that went away, a drained one) is left as state, and ``attention`` is called.

Either may come back in the middle of any step, on the same thread: from a signal handler or a finalizer. So nothing
here takes a lock (:mod:`meshlib._core.serial`). Attempts are counted in stretches that nothing interrupts. What changes
hosts is a serialized step. A connection is asked for its state outside of steps, since that takes a lock of grpc's; the
answer is applied in one, unless a newer one has been.
"""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar, final

from meshlib._core.attempts.admission import Admission
from meshlib._core.attempts.budget import Budget
from meshlib._core.attempts.policy import RetryBudget, RetryThrottling
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.picker_snapshot import PickerSnapshot
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.commands import (
    Close,
    ClusterCommand,
    Diagnose,
    Open,
    Rebuild,
    RequestReresolution,
    StartAttempt,
    StateChanged,
    Wake,
)
from meshlib._core.connectivity import CONNECTING, IDLE, NAMES, READY, SHUTDOWN, aggregate
from meshlib._core.connectivity_poll import ConnectivityPoll
from meshlib._core.deadlines import BRIEF, EXPIRED
from meshlib._core.endpoint import Resolution, merge_duplicates
from meshlib._core.events import ChannelEvent, ChannelObserver, HostUnreachable, PanicChanged, ResolutionFailed
from meshlib._core.health.losses import believed, broke, says_lost
from meshlib._core.health.outlier import Outliers
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.host import HostEntry, Subchannel
from meshlib._core.hosts import HostSet
from meshlib._core.limits.breaker import Breaker
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.pending_calls import PendingCalls
from meshlib._core.serial import ALONE, Threads, WorkSerializer
from meshlib._core.snapshot import HostSnapshot
from meshlib._core.status import Outcome, local

if TYPE_CHECKING:
    from meshlib._core.call import Call

__all__ = ["ASKING", "CLOSED", "ClusterMachine"]

T = TypeVar("T")

ClusterCommands = tuple[ClusterCommand, ...]

SWEPT_AT_ONCE: Final = 64
"""Connections whose changes are applied in one step, at most."""

POSTPONED: Final = 0.02
"""Seconds until the control plane tries a step again that finds another thread inside: that one may be beneath a signal
handler, and away for as long as that takes."""

CLOSED: Final = local("CANCELLED", "Channel closed!")
"""What a waiting call is told when its channel closes: grpc's own words."""


def _brief(attempt: StartAttempt | None) -> bool:
    """Whether an attempt had too little time for an answer."""
    return attempt is not None and attempt.timeout is not None and attempt.timeout < BRIEF


@final
class ClusterMachine:
    """The hosts of one channel, who is chosen of them, and the calls that wait.

    Args:
        name: the target as written, for messages.
        balancer: chooses among the hosts of one priority; :class:`Priorities` says which that is, too.
        rng: every random choice of the channel.
        threads: of the shell, so that the core names none.
        budget: of retries; None: no limit.
        throttling: of retries; None: no limit.
        outlier_detection: who is left out for a while; None: nobody.
        circuit_breaker: how much may be under way; None: no limit.
        attention: tells the control plane to call :meth:`on_timer` soon; called outside of steps.
        observer: hears the events of the channel.
        watched: whether somebody waits for the channel to be ready, other than with a call.
    """

    def __init__(
        self,
        name: str,
        *,
        balancer: Balancer,
        rng: Random,
        budget: RetryBudget | None,
        attention: Callable[[], None],
        threads: Threads = ALONE,
        throttling: RetryThrottling | None = None,
        outlier_detection: OutlierDetection | None = None,
        circuit_breaker: CircuitBreaker | None = None,
        observer: ChannelObserver | None = None,
        watched: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self.rng = rng
        self.in_flight = 0
        self.ended = 0
        """Attempts that have ended so far."""
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
        self.hosts = HostSet(self._events)
        if not isinstance(balancer, Priorities):
            balancer = Priorities(balancer=balancer, overprovisioning_factor=None)
        self._priorities = balancer
        self._serializer = WorkSerializer(threads)
        self._commands: deque[ClusterCommand] = deque()
        """What the steps so far ask of the shell, and it has not been given yet."""
        self._attention = attention
        self.connectivity = IDLE
        """The channel's own state."""
        self._rotation: PickerSnapshot | None = None
        self._previous: PickerSnapshot | None = None
        """The last one there was, for the next to carry on from."""
        self._built = 0
        """Version of the hosts that the rotation is for."""
        self._seen = 0
        """Version of the hosts that the control plane has been told of."""
        self._waiting = waiting = PendingCalls()
        throttle = None if throttling is None else Throttle(throttling)
        self.retries = Admission(
            self.budget,
            throttle,
            waiting,
            active=lambda: self.in_flight + len(waiting.calls),
            note=self.note,
        )
        self._watch = ConnectivityPoll()
        self._watched = watched
        self._last = (0, 0)
        """What had happened by the last sweep."""
        self._judged = (0, 0)
        """The same, by the last sweep of outlier detection."""
        self._stale_at = math.inf
        self._postponed = -math.inf
        """Monotonic second before which there is no use in another :meth:`on_timer`."""

    # What callers do.

    def pick(self, call: "Call", now: float, *, wait: bool = True) -> HostEntry | Outcome | None:
        """The host for the next attempt of ``call``, its place counted.

        Returns:
            A host; or the outcome that ends the call, if nothing can be reached and it will not wait, or the circuit
            breaker refuses it; or None, and then the call is registered to be woken (unless ``wait`` is False).
        """
        waiting = self._waiting
        while True:
            if waiting.calls or waiting.resting:
                waiting.forget(call)
            ended = self.ended
            rotation = self._rotation
            chosen: HostEntry | Outcome | None = None if rotation is None else rotation.pick(call, self.usable, now)
            if chosen is None:
                chosen = self._pick_failing(call, wait, now)
            if type(chosen) is HostEntry:
                # It may have left since it was asked for its connection; and the call has its place from here on,
                # whatever is raised before there is an attempt to say so.
                if chosen.removed or chosen.subchannel is None:  # uninterrupted
                    continue
                in_flight = self.in_flight  # uninterrupted
                if in_flight < self.breaker.max_requests:  # uninterrupted
                    chosen.in_flight += 1  # uninterrupted
                    self.in_flight = in_flight + 1  # uninterrupted
                    call.place = chosen  # uninterrupted
                else:
                    chosen = self.breaker.refuse_request(self.note, now=now)
            elif chosen is None and wait:
                chosen = self._wait(call, now)
                if chosen is None and (ended != self.ended or rotation is not self._rotation or self.closed):
                    continue  # what it waits for came before it was registered
                if chosen is None:
                    self._attention()
            if self.hosts.version != self._seen:
                self._notice()
            return chosen

    def put_back(self, call: "Call") -> None:
        """The place that ``call`` has at a host is free again: there will be no attempt."""
        host = call.place
        if host is not None:
            host.in_flight -= 1  # uninterrupted
            self.in_flight -= 1  # uninterrupted
            call.place = None  # uninterrupted
            self._attention()

    def report(
        self, host: HostEntry, outcome: Outcome, seconds: float, now: float, attempt: StartAttempt | None = None
    ) -> str:
        """An attempt on ``host`` ended after ``seconds``; its place is free, and ``attempt`` says so.

        Returns:
            Why that had the host ejected; empty: it had not.
        """
        host.in_flight -= 1  # uninterrupted
        self.in_flight -= 1  # uninterrupted
        self.ended += 1  # uninterrupted
        if attempt is not None:  # uninterrupted
            attempt.seconds = seconds  # uninterrupted
        ejected = ""
        rotation = self._rotation
        if outcome.code == "OK":
            host.successes += 1
            if host.struck or (rotation is not None and rotation.listens):
                ejected = self._run(partial(self._reported, host, outcome, seconds, None, now), "")
        else:
            if outcome.code == "DEADLINE_EXCEEDED" and _brief(attempt) and not outcome.answered:
                outcome = EXPIRED
            host.failures += not outcome.local
            look = self._look(host) if outcome.code == "UNAVAILABLE" else None
            ejected = self._run(partial(self._reported, host, outcome, seconds, look, now), "")
            if self.hosts.lost:
                self._notice()
        if host.removed or self._waiting.calls or self.hosts.version != self._seen:
            freed = bool(self._waiting.calls) and rotation is not None
            if freed:
                self._waiting.freed = True
            if freed or (host.removed and host.in_flight == 0) or self.hosts.version != self._seen:
                self._notice()
        return ejected

    def leave(self, call: "Call") -> None:
        """``call`` waits no more, neither for a host nor for its next attempt."""
        self._waiting.forget(call)

    def usable(self, host: HostEntry, *, now: float) -> bool:
        """Asks the connection of ``host`` whether a call may be sent to it."""
        look = self._look(host)
        if look is None:
            return False
        if look[2] != host.state:
            self._run(partial(self.hosts.seen, (look,), now=now), None)
        return look[2] == READY

    def lost(self, host: HostEntry, *, since: float, cut: bool, now: float) -> bool:
        """Whether ``host`` has left, or has been without its connection at any time since then.

        Args:
            host: where an attempt was sent.
            since: when it was.
            cut: it ended with C-core's words for a lost connection.
            now: monotonic seconds.
        """
        if not self.usable(host, now=now) or host.lost_at >= since:
            return True
        if not cut or not self._run(partial(self._believed, host, since, now), False):
            return False
        self._notice()
        return True

    def note(self, event: ChannelEvent) -> None:
        """Tells ``event`` to whoever listens, with the next step of the control plane."""
        if self._events is not None:
            self._events.append(event)

    # What the control plane feeds it.

    def on_resolved(self, resolution: Resolution, *, now: float) -> ClusterCommands:
        """The resolver named endpoints, an answer that may be the same as before."""

        def step() -> None:
            if self.closed:
                return
            self.resolutions["ok"] += 1
            self.failure = "" if resolution.endpoints else "the resolver returned no endpoints"
            if self.outliers is not None:
                self.outliers.begin(now=now)
            self._commands += map(Open, self.hosts.replace(merge_duplicates(resolution.endpoints), now=now))
            # Only now: a caller in the middle of this step would take a name without hosts for one that has none.
            self.resolved = True
            self._settle(now)

        return self._step(step)

    def on_resolution_failed(self, reason: str, *, now: float) -> ClusterCommands:
        """The resolver failed: the last good endpoints stay."""

        def step() -> None:
            if self.closed:
                return
            self.resolved = True
            self.resolutions["failed"] += 1
            if reason != self.failure:
                self.note(ResolutionFailed(at=now, reason=reason, kept=len(self.hosts)))
            self.failure = reason
            self._settle(now)

        return self._step(step)

    def opened(self, host: HostEntry, subchannel: Subchannel, *, now: float) -> ClusterCommands:
        """``host`` has a subchannel, which is to connect."""

        def step() -> None:
            if self.closed or not self.hosts.opened(host, subchannel):
                self._commands.append(Close(host, subchannel))
            else:
                self._watch.hurry(now=now)

        return self._step(step)

    def hurry(self, *, now: float) -> None:
        """Somebody begins to wait for the channel to be ready; to be followed by ``attention``."""
        self._watch.hurry(now=now)

    def on_connectivity(self, host: HostEntry, state: int, *, now: float) -> ClusterCommands:
        """The connection of ``host`` is in ``state`` now."""

        def step() -> None:
            if not self.closed:
                self.hosts.set_state(host, state, now=now)
                self._settle(now)

        return self._step(step)

    def on_reason(self, host: HostEntry, reason: str, *, now: float) -> None:
        """``host`` cannot be connected, and that is why; empty: it can be by now."""
        if not reason or host.state == READY:
            return
        host.last_error = reason
        hosts = self.hosts
        if not host.removed and hosts.ready and hosts.unreachable.worth_a_line(now=now):
            self.note(
                HostUnreachable(
                    at=now, address=host.endpoint.address, reason=reason, ready=hosts.ready, hosts=len(hosts)
                )
            )
            self._publish()

    def on_timer(self, *, now: float) -> ClusterCommands:
        """The time of :meth:`next_timer` has come, or ``attention`` was called."""
        swept = now >= self._watch.at
        if swept:
            self._sweep(now)

        def step() -> None:
            self._postponed = -math.inf
            if self.closed:
                return
            if self._serializer.torn:
                self._serializer.torn = False
                self._commands += self.hosts.mend()
            if swept:
                self._looked(now)
            if self.outliers is not None and now >= self.outliers.sweep_at:
                self._judged = self._happened()
                returned, found = self.outliers.sweep(self.hosts.named, now=now)
                self.hosts.returned(returned, now=now, alone=self._alone)
                self.hosts.judged(found, now=now, alone=self._alone)
            if now >= self._stale_at:
                self.hosts.version += 1
            self._settle(now)

        self._postponed = now + POSTPONED
        return self._step(step, later=False)

    @property
    def resting(self) -> bool:
        """Whether nobody has called for a while, and nothing has changed."""
        return self._watch.resting and not self._waiting.calls

    def look(self, *, now: float, early: float = 0.0) -> bool:
        """The time of :meth:`next_timer` has come, or will in ``early`` seconds: asks the connections, if that is all
        there is to do. Returns whether nothing has changed; else :meth:`on_timer` is to be called."""
        hosts, outliers = self.hosts, self.outliers
        if self.closed or self._events or self._commands or self._serializer.torn:
            return False
        if now >= self._stale_at or now >= hosts.unreachable.at or hosts.version != self._built:
            return False
        if outliers is not None and now >= outliers.sweep_at:
            if self._judged != self._happened() or any(host.ejection or host.record.times for host in hosts):
                return False
            outliers.begin(now=now, anew=True)
        if now >= self._watch.at - early:
            try:
                for host in hosts.seats:
                    subchannel = host.subchannel
                    state = None if subchannel is None else subchannel.glance()
                    if state is not None and state != host.state:
                        return False
            except ValueError:
                return False  # the channel was closed this moment
            self._looked(now)
        return True

    def next_timer(self) -> float | None:
        """The monotonic second of the next :meth:`on_timer`, or None."""
        if self.closed:
            return None
        if self._postponed > -math.inf:
            return self._postponed  # the step that was asked for has yet to run
        sweep_at = math.inf if self.outliers is None else self.outliers.sweep_at
        timer = min(self._watch.at, self._stale_at, sweep_at, self.hosts.unreachable.at)
        return None if timer == math.inf else timer

    def rebuild(self, *, now: float) -> ClusterCommands:
        """Makes pickers for the hosts of now. Runs the balancer's code, outside of steps."""
        step = self._rebuilt(now)
        return self._take() if step is None else self._step(step)

    def rebuild_aside(self, *, now: float) -> None:
        """The same on another thread than the control plane's, which is asked for its attention.

        No command is taken out here: some may be those of other threads, and nobody performs what a thread has that is
        left behind by a closing channel.
        """
        step = self._rebuilt(now)
        if step is not None:
            self._run(step, None)

    def _rebuilt(self, now: float) -> Callable[[], None] | None:
        """The step that puts new pickers in place; None: there is nothing new."""
        # Before the hosts are looked at: what changes meanwhile asks for another rebuild.
        version = self.hosts.version
        if self.closed or version == self._built:
            return None
        tiers = self.hosts.tiers(self._priorities, first=self._previous is None)
        rotation = None
        if tiers:
            rotation = PickerSnapshot(
                self._priorities.balancer,
                tiers,
                rng=self.rng,
                events=self._events,
                now=now,
                run=self._run,
            )

        def step() -> None:
            if self.closed:
                return
            if rotation is not None:
                previous = self._previous  # once: the channel may be closed in the middle of this
                if previous is not None:
                    rotation.adopt(previous, now=now)
                self._previous = rotation
            self._rotation = rotation
            self._built = version
            self._stale_at = math.inf
            self._waiting.freed = rotation is not None
            # With nobody connected there is nothing new to say of it.
            if rotation is not None and rotation.panic != self.panic:
                self.panic = rotation.panic
                self.note(PanicChanged(at=now, priorities=self.panic, alone=self._alone))
            self._settle(now)

        return step

    def close(self, *, now: float) -> ClusterCommands:
        """The channel closes: waiting calls are woken, every host is closed whatever it has in flight."""
        closed = self.closed  # uninterrupted
        self.closed = True  # uninterrupted
        if closed:
            return self._take()
        # At once, also in the middle of another step; what that may still bring back goes when it has ended.
        self._clear()
        self._commands.append(StateChanged(SHUTDOWN))
        self._serializer.run(self._clear, None)  # not _run, which has the control plane take the commands
        self._publish()
        return self._take()

    # What is known.

    @property
    def ready(self) -> int:
        """How many hosts are connected."""
        return self.hosts.ready

    def situation(self) -> str:
        """Why there is no host to send to, in words and without addresses."""
        if self.hosts:
            stale = f"; the last resolution failed: {self.failure}" if self.failure else ""
            return f"no endpoint of {self.name!r} is ready: {self.hosts.count()}{stale}"
        if not self.resolved:
            return f"{self.name!r} is still being resolved"
        return f"{self.name!r} has no endpoints: {self.failure}"

    @property
    def waiting(self) -> int:
        """How many calls wait for a host."""
        return len(self._waiting.calls)

    def snapshot(self, *, now: float) -> tuple[HostSnapshot, ...]:
        """The hosts as they are now."""
        return self.hosts.snapshot(now=now)

    def __repr__(self) -> str:
        return f"<ClusterMachine {self.name} {self.ready} ready of {len(self.hosts)} {NAMES[self.connectivity]}>"

    def _notice(self) -> None:
        """There is something for the control plane to act on."""
        self._seen = self.hosts.version
        self._attention()

    # Steps, and how they are run.

    def _run(self, step: Callable[[], T], otherwise: T, *, later: bool = True) -> T:
        """Runs a serialized step for a caller; ``otherwise``: it is left to the one beneath, or with ``later=False`` to
        nobody."""
        found = self._serializer.run(step, otherwise, later=later)
        if self._commands:
            self._attention()  # steps of the control plane were left to this thread
        return found

    def _step(self, step: Callable[[], None], *, later: bool = True) -> ClusterCommands:
        """Runs a serialized step for the control plane, which waits for nobody. Returns what is asked of it by now."""
        self._serializer.run(step, None, later=later, patient=False)
        self._publish()
        return self._take()

    def _take(self) -> ClusterCommands:
        taken = []
        while self._commands:
            try:
                taken.append(self._commands.popleft())
            except IndexError:  # another thread was quicker
                break
        return tuple(taken)

    def _clear(self) -> None:
        """Takes everything out; also in the middle of another step."""
        self._rotation = self._previous = None
        self.panic = ()
        self.connectivity = SHUTDOWN
        closing = self.hosts.clear()
        self._seen = self.hosts.version
        calls = self._waiting.take_all()
        self._commands += (*((Wake(calls),) if calls else ()), *closing)

    def _look(self, host: HostEntry) -> tuple[HostEntry, int, int] | None:
        """Asks the connection of ``host``, outside of steps; None: it has none."""
        subchannel = host.subchannel
        if host.removed or subchannel is None:
            return None
        stamp = host.stamp
        try:
            return host, stamp, subchannel.state(True)
        except ValueError:
            return None  # closed this moment

    def _reported(
        self, host: HostEntry, outcome: Outcome, seconds: float, look: tuple[HostEntry, int, int] | None, now: float
    ) -> str:
        """What the end of an attempt changes, beside what is counted; why it had the host ejected."""
        if look is not None:
            self.hosts.seen((look,), now=now)
        rotation = self._rotation
        if rotation is not None and rotation.listens:
            rotation.report(host, outcome.code, seconds, now=now)
        if outcome.code != "OK" or host.struck:
            return self._judge(host, outcome, now - seconds, now)
        return ""

    def _believed(self, host: HostEntry, since: float, now: float) -> bool:
        """Whether an attempt is believed that says that its connection was lost: then names are looked up."""
        if not believed(host, since, now):
            return False
        self.hosts.lost = True
        return True

    def _pick_failing(self, call: "Call", wait: bool, now: float) -> HostEntry | Outcome | None:
        """The rotation has no host. A call that does not wait for one is sent to a failing host all the same, once
        nothing is resolving or connecting any more: grpc refuses it within a millisecond, with the true reason."""
        if self.closed:
            return CLOSED
        if not self.resolved or self._reachable():
            return None
        if (wait and self._run(self.hosts.redialled, False)) or call.wait_for_ready:
            return None
        return self.hosts.failing(call.tried) or local("UNAVAILABLE", self.situation(), self.hosts.describe())

    def _wait(self, call: "Call", now: float) -> Outcome | None:
        """``call`` waits for a host, unless too many do."""
        alone = not self._waiting.calls
        if not self._waiting.add(call, most=self.breaker.max_pending_requests):
            return self.breaker.refuse_waiting(self.note, now=now)
        if alone:
            self._watch.hurry(now=now)
        return None

    @property
    def _alone(self) -> bool:
        """Whether the one host there is gets all calls, ejected or not."""
        return len(self.hosts) == 1 and self._priorities.healthy_panic_threshold > 0

    def _reachable(self) -> bool:
        return self.hosts.reachable(ejected=self._priorities.healthy_panic_threshold > 0)

    def _judge(self, host: HostEntry, outcome: Outcome, start: float, now: float) -> str:
        """What the end of an attempt says of its host: nothing, if it was cancelled, made here or never sent."""
        outliers = self.outliers
        if outcome.code == "OK":
            if outliers is not None:
                outliers.answered(host)
            return ""
        if outcome.local or outcome.refused or outcome.code == "CANCELLED" or host.removed:
            return ""
        if says_lost(outcome):
            # The calls that a connection takes with it are one failure of its host, not as many: else every crash of a
            # busy server had it ejected, and left out when it is back.
            counted = start <= host.record.broke_at
            if broke(host, start, now):
                self.hosts.lost = True
            if counted:
                return ""
        if outliers is None:
            return ""
        found = outliers.failed(host, outcome, self.hosts.named, now=now)
        self.hosts.judged(found, now=now, alone=self._alone)
        return "" if not found or host.ejection is None else host.ejection.why

    def _sweep(self, now: float) -> None:
        """Looks at every connection, and applies what has changed, in a step for every few: there may be thousands."""
        seats = self.hosts.seats
        for first in range(0, len(seats), SWEPT_AT_ONCE):
            changed = []
            for host in seats[first : first + SWEPT_AT_ONCE]:
                subchannel = host.subchannel
                if subchannel is None or host.removed:
                    continue
                stamp = host.stamp
                try:
                    state = subchannel.glance()
                except ValueError:
                    continue  # closed this moment
                if state is not None and state != host.state:
                    changed.append((host, stamp, state))
            if changed:  # if another thread is inside, the next sweep will see the same
                self._serializer.run(partial(self.hosts.seen, changed, now=now), None, later=False, patient=False)

    def _looked(self, now: float) -> None:
        """All connections have been asked: sets the time of the next look."""
        seen, self._last = self._last, self._happened()
        self._watch.looked(
            len(self.hosts.seats),
            waiting=bool(self._waiting.calls),
            quiet=seen == self._last and not self.in_flight,
            watched=self._watched() and self.connectivity != READY,
            dialling=self.ready < len(self.hosts.seats),
            now=now,
        )

    def _happened(self) -> tuple[int, int]:
        """Counts what happens."""
        hosts = self.hosts
        return self.ended, hosts.connected + hosts.not_connected + hosts.disconnected + hosts.version

    def _settle(self, now: float) -> None:
        """Asks of the shell what the changes so far call for."""
        hosts, commands = self.hosts, self._commands
        commands += map(Close, hosts.drained())
        commands += hosts.redialling
        hosts.redialling.clear()
        commands += map(Diagnose, hosts.unreachable.due(now=now))
        if hosts.lost:
            hosts.lost = False
            commands.append(RequestReresolution())
        self._seen = hosts.version
        if self._rotation is None and not hosts.ready:
            self._built = hosts.version  # nobody can be chosen, and nobody could
        elif hosts.version != self._built:
            commands.append(Rebuild())
            self._stale_at = math.inf
        elif (rotation := self._rotation) is not None:
            self._stale_at = rotation.stale_at(now=now)
        calls = self._waiting.take(lambda: not self.resolved or self._reachable())
        if calls:
            commands.append(Wake(calls))
        state = aggregate(host.state for host in hosts) if hosts or self.resolved else CONNECTING
        if state != self.connectivity:
            self.connectivity = state
            commands.append(StateChanged(state))
        self._watch.settle(seats=bool(hosts.seats), now=now)

    # Events are noted in steps and told outside of them.

    def _publish(self) -> None:
        if self.observer is None:
            return
        while self._events:
            try:
                event = self._events.popleft()
            except IndexError:  # another thread was quicker
                break
            self.observer.on_channel_event(event)


ASKING: Final = frozenset({PickerSnapshot.pick.__code__, ClusterMachine._look.__code__})
"""Where a caller's thread asks a connection for its state, which takes a lock of grpc's."""
