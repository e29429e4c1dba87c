"""Interface of a cluster to its calls: picks, reports of outcomes, and waiting for a host.

Callers' threads do little here and never wait for the control plane. A change that it must act on (a host that lost its
connection, a drained one) is kept as state, and ``attention`` is called.

A signal handler or a finalizer may call any method in the middle of any other, on the same thread. So no lock is taken
here (:mod:`meshlib._core.serial`). Attempts are counted in uninterruptible sections. Changes of hosts are serialized
steps. The state of a connection is read outside of steps, because that acquires a grpc lock; it is applied in a step,
unless a newer one has been applied before.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final, Protocol

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.admission import Admission
from meshlib._core.attempts.budget import Budget
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.balancing.picker_snapshot import Asking, PickerSnapshot
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.cluster_policy import ClusterPolicy
from meshlib._core.cluster_steps import ClusterSteps
from meshlib._core.connectivity import IDLE, READY
from meshlib._core.connectivity_poll import ConnectivityPoll
from meshlib._core.events import ChannelObserver
from meshlib._core.health.judge import OutcomeJudge, charged
from meshlib._core.health.outlier import Outliers
from meshlib._core.host import HostEntry
from meshlib._core.hosts import HostSet
from meshlib._core.limits.breaker import Breaker
from meshlib._core.pending_calls import PendingCalls
from meshlib._core.serial import ALONE, Threads
from meshlib._core.status import Outcome, local
from meshlib._core.waiter import Waiter

__all__ = ["ASKING", "CLOSED", "ClusterCalls"]

CLOSED: Final = local("CANCELLED", "Channel closed!")
"""Outcome of calls that wait when their channel closes; grpc's own message."""


class Caller(Asking, Waiter, Protocol):
    """Call that needs a host."""

    tried: tuple[HostEntry, ...]
    """Hosts that its attempts went to, oldest first."""
    picked: HostEntry | None
    """Host that counts an attempt in flight which has not been made yet."""


class ClusterCalls:
    """Hosts of one cluster, and the calls that use them. :class:`~meshlib._core.cluster.ClusterMachine` adds the
    methods for the control plane.

    Args:
        name: the target as written, for messages.
        policy: of the cluster.
        rng: for every random choice.
        threads: of the shell.
        attention: makes the control plane call ``on_timer`` soon; called outside of steps.
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
        self.name = name
        self.rng = rng
        self.in_flight = 0
        self.ended = 0
        """Attempts ended so far."""
        self.closed = False
        self.failure = ""
        """Why the last resolution failed; empty after a good one."""
        self.resolved = False
        """Whether a resolution has ended, successfully or not."""
        self.breaker = Breaker(policy.circuit_breaker)
        self.budget = Budget(policy.retry_budget, self.breaker.max_retries)
        self.outliers = None if policy.outlier_detection is None else Outliers(policy.outlier_detection, rng)
        self.panic: tuple[int, ...] = ()
        """Priorities in panic: ejected hosts are used too."""
        self.connectivity = IDLE
        """Connectivity state of the channel."""
        self._steps = steps = ClusterSteps(threads, attention, observer)
        self._run = steps.run
        self.note = steps.note
        self.hosts = HostSet(steps.events)
        balancer = policy.balancer
        if not isinstance(balancer, Priorities):
            balancer = Priorities(balancer=balancer, overprovisioning_factor=None)
        self._priorities = balancer
        self._judge = OutcomeJudge(self.hosts, self.outliers, picker=lambda: self._picker, alone=lambda: self.alone)
        self._attention = attention
        self._picker: PickerSnapshot | None = None
        self._notified = 0
        """Version of the hosts that the control plane was last notified of."""
        self._pending = pending = PendingCalls()
        throttle = None if policy.retry_throttling is None else Throttle(policy.retry_throttling)
        self.retries = Admission(
            self.budget,
            throttle,
            pending,
            active=lambda: self.in_flight + len(pending.calls),
            note=self.note,
        )
        self._poll = ConnectivityPoll()
        self._watched = watched

    def pick(self, call: Caller, now: float, *, wait: bool = True) -> HostEntry | Outcome | None:
        """Pick the host for the next attempt of ``call`` and increment its in-flight count.

        Returns:
            A host; or the outcome that ends the call, if no host is reachable and it does not wait, or the circuit
            breaker rejects it; or None, and then the call is registered to be woken (unless ``wait`` is False).
        """
        pending = self._pending
        while True:
            if pending.calls or pending.resting:
                pending.forget(call)
            ended = self.ended
            picker = self._picker
            chosen: HostEntry | Outcome | None = None if picker is None else picker.pick(call, self.usable, now)
            if chosen is None:
                chosen = self._pick_failing(call, wait, now)
            if type(chosen) is HostEntry:
                # The host may have been removed since its connection was read. From here on the call holds the
                # in-flight count, until an attempt does.
                if chosen.removed or chosen.subchannel is None:  # uninterrupted
                    continue
                in_flight = self.in_flight  # uninterrupted
                if in_flight < self.breaker.max_requests:  # uninterrupted
                    chosen.in_flight += 1  # uninterrupted
                    self.in_flight = in_flight + 1  # uninterrupted
                    call.picked = chosen  # uninterrupted
                else:
                    chosen = self.breaker.refuse_request(self.note, now=now)
            elif chosen is None and wait:
                chosen = self._wait(call, now)
                if chosen is None and (ended != self.ended or picker is not self._picker or self.closed):
                    continue  # the change that it waits for preceded its registration
                if chosen is None:
                    self._attention()
            if self.hosts.version != self._notified:
                self._notice()
            return chosen

    def release_pick(self, call: Caller) -> None:
        """Decrement the in-flight count of the host picked for ``call``: there will be no attempt."""
        host = call.picked
        if host is not None:
            host.in_flight -= 1  # uninterrupted
            self.in_flight -= 1  # uninterrupted
            call.picked = None  # uninterrupted
            self._attention()

    def report(
        self, host: HostEntry, outcome: Outcome, seconds: float, now: float, attempt: AttemptRecord | None = None
    ) -> str:
        """Record the end of an attempt on ``host`` and decrement its in-flight count.

        Returns:
            Why this ejected the host; empty: it did not.
        """
        host.in_flight -= 1  # uninterrupted
        self.in_flight -= 1  # uninterrupted
        self.ended += 1  # uninterrupted
        if attempt is not None:  # uninterrupted
            attempt.seconds = seconds  # uninterrupted
        ejected = ""
        picker = self._picker
        if outcome.code == "OK":
            host.successes += 1
            if host.struck or (picker is not None and picker.listens):
                ejected = self._run(partial(self._judge.reported, host, outcome, seconds, None, now), "")
        else:
            outcome = charged(outcome, attempt)
            host.failures += not outcome.local
            look = self._look(host) if outcome.code == "UNAVAILABLE" else None
            ejected = self._run(partial(self._judge.reported, host, outcome, seconds, look, now), "")
            if self.hosts.lost:
                self._notice()
        if host.removed or self._pending.calls or self.hosts.version != self._notified:
            freed = bool(self._pending.calls) and picker is not None
            if freed:
                self._pending.freed = True
            if freed or (host.removed and host.in_flight == 0) or self.hosts.version != self._notified:
                self._notice()
        return ejected

    def leave(self, call: Caller) -> None:
        """Remove ``call`` from those that wait for a host or for their next attempt."""
        self._pending.forget(call)

    def usable(self, host: HostEntry, *, now: float) -> bool:
        """Read from the connection of ``host`` whether a call may be sent to it."""
        look = self._look(host)
        if look is None:
            return False
        if host.differs(look[2]):
            self._run(partial(self.hosts.seen, (look,), now=now), None)
        return look[2] == READY

    def lost(self, host: HostEntry, *, since: float, cut: bool, now: float) -> bool:
        """Whether ``host`` was removed, or was without its connection at any time since ``since``.

        Args:
            host: the host of an attempt.
            since: start of the attempt.
            cut: it ended with C-core's error for a lost connection.
            now: monotonic seconds.
        """
        if not self.usable(host, now=now) or host.lost_at >= since:
            return True
        if not cut or not self._run(partial(self._judge.lost, host, since, now), False):
            return False
        self._notice()
        return True

    @property
    def ready(self) -> int:
        """Number of connected hosts."""
        return self.hosts.ready

    def situation(self) -> str:
        """Why no host is available, in words and without addresses."""
        if self.hosts:
            stale = f"; the last resolution failed: {self.failure}" if self.failure else ""
            return f"no endpoint of {self.name!r} is ready: {self.hosts.count()}{stale}"
        if not self.resolved:
            return f"{self.name!r} is still being resolved"
        return f"{self.name!r} has no endpoints: {self.failure}"

    @property
    def alone(self) -> bool:
        """Whether there is only one host, which gets all calls, ejected or not."""
        return len(self.hosts) == 1 and self._priorities.healthy_panic_threshold > 0

    def _reachable(self) -> bool:
        return self.hosts.reachable(ejected=self._priorities.healthy_panic_threshold > 0)

    def _notice(self) -> None:
        """Notify the control plane of a change."""
        self._notified = self.hosts.version
        self._attention()

    def _look(self, host: HostEntry) -> tuple[HostEntry, int, int] | None:
        """Read the state of the connection of ``host``, outside of steps; None: it has none."""
        subchannel = host.subchannel
        if host.removed or subchannel is None:
            return None
        stamp = host.stamp
        try:
            return host, stamp, subchannel.state(True)
        except ValueError:
            return None  # closed meanwhile

    def _pick_failing(self, call: Caller, wait: bool, now: float) -> HostEntry | Outcome | None:
        """Pick if the picker has no host. A call that does not wait for one is sent to a failing host, once nothing is
        resolving or connecting any more: grpc refuses it within a millisecond, with the true reason."""
        if self.closed:
            return CLOSED
        if not self.resolved or self._reachable():
            return None
        redialled = wait and self._run(self.hosts.redial, False)
        if redialled or call.wait_for_ready:
            return None
        return self.hosts.failing(call.tried) or local("UNAVAILABLE", self.situation(), self.hosts.describe())

    def _wait(self, call: Caller, now: float) -> Outcome | None:
        """Queue ``call`` until a host is ready, unless too many wait."""
        alone = not self._pending.calls
        if not self._pending.add(call, most=self.breaker.max_pending_requests):
            return self.breaker.refuse_waiting(self.note, now=now)
        if alone:
            self._poll.hurry(now=now)
        return None


ASKING: Final = frozenset({PickerSnapshot.pick.__code__, ClusterCalls._look.__code__})
"""Code in which a caller's thread reads the state of a connection, which acquires a grpc lock."""
