"""State machine of one cluster: the control plane feeds it resolutions and timers, and performs its commands."""

import math
from collections.abc import Callable
from random import Random
from typing import Final, final

from meshlib._core.balancing.picker_builder import PickerBuilder
from meshlib._core.cluster_calls import CLOSED, ClusterCalls
from meshlib._core.cluster_policy import ClusterPolicy
from meshlib._core.cluster_steps import ClusterCommands
from meshlib._core.commands import Close, Diagnose, Open, Rebuild, RequestReresolution, StateChanged, Wake
from meshlib._core.connectivity import CONNECTING, NAMES, READY, SHUTDOWN, aggregate
from meshlib._core.endpoint import Resolution, merge_duplicates
from meshlib._core.events import ChannelObserver, HostUnreachable, PanicChanged, ResolutionFailed
from meshlib._core.host import HostEntry, Subchannel
from meshlib._core.serial import ALONE, Threads
from meshlib._core.snapshot import HostSnapshot
from meshlib._core.sweep import sweep, unchanged

__all__ = ["CLOSED", "ClusterMachine"]

POSTPONED: Final = 0.02
"""Seconds until the control plane retries a step that found another step running: a signal handler may run on that
thread, for any time."""


@final
class ClusterMachine(ClusterCalls):
    """Hosts of one cluster, with the inputs of the control plane. Each input returns commands for the shell.

    Args:
        name: the target as written, for messages.
        policy: of the cluster.
        rng: for every random choice.
        threads: of the shell.
        attention: makes the control plane call :meth:`on_timer` soon; called outside of steps.
        observer: receives the events of the channel.
        watched: whether the application waits for the channel to be ready, other than with a call.
    """

    def __init__(
        self,
        name: str,
        policy: ClusterPolicy,
        *,
        rng: Random,
        attention: Callable[[], None],
        threads: Threads = ALONE,
        observer: ChannelObserver | None = None,
        watched: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(
            name, policy, rng=rng, attention=attention, threads=threads, observer=observer, watched=watched
        )
        self.resolutions = {"ok": 0, "failed": 0}
        """Resolutions so far, by result."""
        self._builder = PickerBuilder(self._priorities, self.hosts, self.rng, self._steps)
        self._last = (0, 0)
        """:meth:`_happened` as of the last sweep."""
        self._judged = (0, 0)
        """The same, as of the last sweep of outlier detection."""
        self._postponed = -math.inf
        """Monotonic second before which another :meth:`on_timer` would be useless."""

    def on_resolved(self, resolution: Resolution, *, now: float) -> ClusterCommands:
        """Apply a resolution, which may be the same as before."""

        def step() -> None:
            if self.closed:
                return
            self.resolutions["ok"] += 1
            self.failure = "" if resolution.endpoints else "the resolver returned no endpoints"
            if self.outliers is not None:
                self.outliers.begin(now=now)
            self._steps.commands += map(Open, self.hosts.replace(merge_duplicates(resolution.endpoints), now=now))
            # Set last: a caller in the middle of this step would see a resolved target without hosts.
            self.resolved = True
            self._settle(now)

        return self._steps.perform(step)

    def on_resolution_failed(self, reason: str, *, now: float) -> ClusterCommands:
        """Record a failed resolution: the last good endpoints are kept."""

        def step() -> None:
            if self.closed:
                return
            self.resolved = True
            self.resolutions["failed"] += 1
            if reason != self.failure:
                self.note(ResolutionFailed(at=now, reason=reason, kept=len(self.hosts)))
            self.failure = reason
            self._settle(now)

        return self._steps.perform(step)

    def opened(self, host: HostEntry, subchannel: Subchannel, *, now: float) -> ClusterCommands:
        """Assign ``host`` its subchannel, which then connects."""

        def step() -> None:
            if self.closed or not self.hosts.opened(host, subchannel):
                self._steps.commands.append(Close(host, subchannel))
            else:
                self._poll.hurry(now=now)

        return self._steps.perform(step)

    def hurry(self, *, now: float) -> None:
        """Poll faster: the application begins to wait for the channel to be ready. ``attention`` must follow."""
        self._poll.hurry(now=now)

    def on_connectivity(self, host: HostEntry, state: int, *, now: float) -> ClusterCommands:
        """Apply the connectivity state of ``host``."""

        def step() -> None:
            if not self.closed:
                self.hosts.set_state(host, state, now=now)
                self._settle(now)

        return self._steps.perform(step)

    def on_reason(self, host: HostEntry, reason: str, *, now: float) -> None:
        """Record why ``host`` cannot be connected; empty: it no longer fails."""
        if not reason or host.connected:
            return
        host.last_error = reason
        hosts = self.hosts
        if not host.removed and hosts.ready and hosts.unreachable.worth_a_line(now=now):
            self.note(
                HostUnreachable(
                    at=now, address=host.endpoint.address, reason=reason, ready=hosts.ready, hosts=len(hosts)
                )
            )
            self._steps.publish()

    def on_timer(self, *, now: float) -> ClusterCommands:
        """The time of :meth:`next_timer` is reached, or ``attention`` was called."""
        swept = now >= self._poll.at
        if swept:
            sweep(self.hosts, self._steps.serializer, now=now)

        def step() -> None:
            self._postponed = -math.inf
            if self.closed:
                return
            if self._steps.serializer.torn:
                self._steps.serializer.torn = False
                self._steps.commands += self.hosts.mend()
            if swept:
                self._looked(now)
            if self.outliers is not None and now >= self.outliers.sweep_at:
                self._judged = self._happened()
                returned, found = self.outliers.sweep(self.hosts.named, now=now)
                self.hosts.returned(returned, now=now, alone=self.alone)
                self.hosts.judged(found, now=now, alone=self.alone)
            if now >= self._builder.stale_at:
                self.hosts.version += 1
            self._settle(now)

        self._postponed = now + POSTPONED
        return self._steps.perform(step, later=False)

    @property
    def resting(self) -> bool:
        """Whether there was no call and no change for a while."""
        return self._poll.resting and not self._pending.calls

    def look(self, *, now: float, early: float = 0.0) -> bool:
        """Poll the connections at the time of :meth:`next_timer`, or up to ``early`` seconds before, if nothing else is
        due. Returns whether nothing has changed; otherwise call :meth:`on_timer`."""
        hosts, outliers, steps = self.hosts, self.outliers, self._steps
        if self.closed or steps.events or steps.commands or steps.serializer.torn:
            return False
        if now >= self._builder.stale_at or now >= hosts.unreachable.at or hosts.version != self._builder.version:
            return False
        if outliers is not None and now >= outliers.sweep_at:
            if self._judged != self._happened() or any(host.ejected or host.record.times for host in hosts):
                return False
            outliers.begin(now=now, anew=True)
        if now >= self._poll.at - early:
            if not unchanged(hosts):
                return False
            self._looked(now)
        return True

    def next_timer(self) -> float | None:
        """Monotonic second of the next :meth:`on_timer`, or None."""
        if self.closed:
            return None
        if self._postponed > -math.inf:
            return self._postponed  # the requested step has not run yet
        sweep_at = math.inf if self.outliers is None else self.outliers.sweep_at
        timer = min(self._poll.at, self._builder.stale_at, sweep_at, self.hosts.unreachable.at)
        return None if timer == math.inf else timer

    def rebuild(self, *, now: float) -> ClusterCommands:
        """Build pickers for the current hosts. Runs the balancer's code, outside of steps."""
        step = self._rebuilt(now)
        return self._steps.take() if step is None else self._steps.perform(step)

    def rebuild_aside(self, *, now: float) -> None:
        """The same on another thread than the control plane's, which receives ``attention``.

        Takes no commands: some may be those of other threads, and commands taken by a thread that outlives its closing
        channel are never performed.
        """
        step = self._rebuilt(now)
        if step is not None:
            self._run(step, None)

    def _rebuilt(self, now: float) -> Callable[[], None] | None:
        """Step that installs a new picker; None: the installed one is up to date."""
        version = self.hosts.version  # read first: a later change requests another rebuild
        if self.closed or version == self._builder.version:
            return None
        picker = self._builder.build(now=now)

        def step() -> None:
            if self.closed:
                return
            if picker is not None:
                self._builder.adopt(picker, now=now)
            self._picker = picker
            self._builder.built(version)
            self._pending.freed = picker is not None
            # With no host connected, the panic state is unknown.
            if picker is not None and picker.panic != self.panic:
                self.panic = picker.panic
                self.note(PanicChanged(at=now, priorities=self.panic, alone=self.alone))
            self._settle(now)

        return step

    def close(self, *, now: float) -> ClusterCommands:
        """Close the cluster: wakes waiting calls, and closes every host, whatever it has in flight."""
        closed = self.closed  # uninterrupted
        self.closed = True  # uninterrupted
        if closed:
            return self._steps.take()
        # At once, even in the middle of another step; the second run removes what that step may still add.
        self._clear()
        self._steps.commands.append(StateChanged(SHUTDOWN))
        self._steps.serializer.run(self._clear, None)  # not _run: the control plane would take the commands
        self._steps.publish()
        return self._steps.take()

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a host."""
        return len(self._pending.calls)

    def snapshot(self, *, now: float) -> tuple[HostSnapshot, ...]:
        """Snapshots of the current hosts."""
        return self.hosts.snapshot(now=now)

    def __repr__(self) -> str:
        return f"<ClusterMachine {self.name} {self.ready} ready of {len(self.hosts)} {NAMES[self.connectivity]}>"

    def _clear(self) -> None:
        """Remove all hosts and calls; also in the middle of another step."""
        self._picker = None
        self._builder.previous = None
        self.panic = ()
        self.connectivity = SHUTDOWN
        closing = self.hosts.clear()
        self._notified = self.hosts.version
        calls = self._pending.take_all()
        self._steps.commands += (*((Wake(calls),) if calls else ()), *closing)

    def _looked(self, now: float) -> None:
        """Schedule the next poll after all connections were polled."""
        seen, self._last = self._last, self._happened()
        self._poll.looked(
            len(self.hosts.seats),
            waiting=bool(self._pending.calls),
            quiet=seen == self._last and not self.in_flight,
            watched=self._watched() and self.connectivity != READY,
            dialling=self.ready < len(self.hosts.seats),
            now=now,
        )

    def _happened(self) -> tuple[int, int]:
        """Counters that change with attempts, connections and hosts, for comparison."""
        hosts = self.hosts
        return self.ended, hosts.connected + hosts.not_connected + hosts.disconnected + hosts.version

    def _settle(self, now: float) -> None:
        """Add the commands that the changes so far require."""
        hosts, commands = self.hosts, self._steps.commands
        commands += map(Close, hosts.drained())
        commands += hosts.redialling
        hosts.redialling.clear()
        commands += map(Diagnose, hosts.unreachable.due(now=now))
        if hosts.lost:
            hosts.lost = False
            commands.append(RequestReresolution())
        self._notified = hosts.version
        if self._picker is None and not hosts.ready:
            self._builder.version = hosts.version  # no host can be picked, neither before nor now
        elif hosts.version != self._builder.version:
            commands.append(Rebuild())
            self._builder.stale_at = math.inf
        elif (picker := self._picker) is not None:  # read once: the channel may close meanwhile
            self._builder.stale_at = picker.stale_at(now=now)
        calls = self._pending.take(lambda: not self.resolved or self._reachable())
        if calls:
            commands.append(Wake(calls))
        state = aggregate(host.state for host in hosts) if hosts or self.resolved else CONNECTING
        if state != self.connectivity:
            self.connectivity = state
            commands.append(StateChanged(state))
        self._poll.settle(seats=bool(hosts.seats), now=now)
