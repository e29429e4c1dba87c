"""The machines, interrupted at any point: by another step, as from a signal handler or a finalizer, or by an exception.

No step may wait. Afterwards counts are exact, waiting calls can still be woken, and connections are closed once.
``nox -s reentrancy`` tries every point.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final

import pytest
from tests.core.channels import Channel
from tests.core.scripted import UNAVAILABLE
from tests.interruption import count, interrupt, points

from meshlib._core.attempts.policy import RetryBudget
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import Call
from meshlib._core.commands import CancelAttempt, Finish, StartAttempt
from meshlib._core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.host import HostEntry
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.status import OK, Outcome, local

RAISED: Final = local("CANCELLED", "raised")
FAILED: Final = Outcome("INTERNAL", "no")


class SoftTimeLimitError(Exception):
    """Raised by a signal handler."""


class Turns:
    """A custom balancer whose picker has state that a nested pick would corrupt."""

    def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
        return TurnsPicker(hosts)


class TurnsPicker:
    """Takes each host in turn, and detects nested picks."""

    def __init__(self, hosts: tuple[Any, ...]) -> None:
        self._hosts = hosts
        self._turn = 0
        self._busy = False

    def pick(self, call: Any, *, now: float) -> Any:
        assert not self._busy
        self._busy = True
        self._turn += 1
        try:
            return self._hosts[self._turn % len(self._hosts)]
        finally:
            self._busy = False

    def done(self, host: Any, report: Any, *, now: float) -> None:
        assert not self._busy


class World:
    """A channel with calls in flight and one that waits, and the possible events."""

    def __init__(self, balancer: Any) -> None:
        self.now = 1.0
        weights = (1, 1, 1) if not isinstance(balancer, LeastRequest) else (1, 2, 3)
        self.endpoints = [Endpoint(address=name, weight=weight) for name, weight in zip("abc", weights, strict=True)]
        self.channel = Channel.of(
            *self.endpoints,
            balancer=balancer,
            budget=RetryBudget(),
            outlier_detection=OutlierDetection(consecutive_5xx=2),
            circuit_breaker=CircuitBreaker(),
            defer=True,
        )
        self.channel.perform(now=0.0)
        for address in "abc":
            self.channel.put(address, READY, now=0.0)
        self.channel.perform(now=0.0)
        self.under_way: list[Call] = []
        self.calls: list[Call] = []
        for policy in (None, RetryPolicy(initial_backoff=0.01, max_backoff=0.01), HedgingPolicy()):
            call = self.channel.call(policy)
            self.calls.append(call)
            call.begin(now=0.5)
            self.under_way.append(call)

    # Events.

    def plain(self) -> None:
        """A call succeeds."""
        self.live(None, OK)

    def retried(self) -> None:
        """A call fails once, and is retried."""
        self.live(RetryPolicy(initial_backoff=0.01, max_backoff=0.01), UNAVAILABLE)

    def ejecting(self) -> None:
        """A call fails and ejects its host."""
        self.live(None, FAILED)

    def hedged(self) -> None:
        """A call has several copies."""
        self.live(HedgingPolicy(max_attempts=2, hedging_delay=0.01), UNAVAILABLE)

    def live(self, policy: Any, first: Outcome) -> None:
        call = self.channel.call(policy)
        self.calls.append(call)
        try:
            self.perform(call, call.begin(now=self.now), first)
            while (timer := call.next_timer()) is not None:
                self.now = max(self.now, timer)
                self.perform(call, call.on_timer(now=self.now), OK)
            if call.state.value != "done":  # it waits for a host
                call.on_cancel(RAISED, now=self.now)
        except SoftTimeLimitError:
            for attempt in call.abandon(RAISED, now=self.now):
                call.on_outcome(attempt.n, RAISED, now=self.now)

    def perform(self, call: Call, commands: Any, outcome: Outcome) -> None:
        pending = list(commands)
        while pending:
            command = pending.pop(0)
            if isinstance(command, StartAttempt):
                pending += call.on_outcome(command.record.n, outcome, now=self.now)
                outcome = OK
            elif isinstance(command, CancelAttempt):
                if call.attempts[command.n - 1].seconds is None:
                    pending += call.on_outcome(command.n, RAISED, now=self.now)
            else:
                assert isinstance(command, Finish)

    def answered(self) -> None:
        """A call in flight succeeds."""
        if self.under_way:
            call = self.under_way.pop()
            self.perform(call, call.on_outcome(1, OK, now=self.now), OK)

    def cancelled(self) -> None:
        """A call in flight is cancelled."""
        if self.under_way:
            call = self.under_way.pop()
            self.perform(call, call.on_cancel(RAISED, now=self.now), OK)

    def lost(self) -> None:
        """A connection is lost, and the next pick finds out."""
        self.channel.links["b"].is_now = TRANSIENT_FAILURE
        self.plain()

    def waiting(self) -> None:
        """No host is connected, and a call waits for one."""
        for link in self.channel.links.values():
            link.is_now = CONNECTING
        call = self.channel.call()
        self.calls.append(call)
        try:
            call.begin(now=self.now)
            self.perform(call, call.on_cancel(RAISED, now=self.now), OK)
        except SoftTimeLimitError:
            for attempt in call.abandon(RAISED, now=self.now):
                call.on_outcome(attempt.n, RAISED, now=self.now)

    def renamed(self) -> None:
        """The resolver returns other hosts."""
        self.channel.resolve(*self.endpoints[1:], Endpoint(address="d"), now=self.now)
        self.channel.perform(now=self.now)

    def swept(self) -> None:
        """The control plane polls every connection, and makes new pickers."""
        self.channel.links["c"].is_now = CONNECTING
        self.now += 11.0
        self.channel.step(now=self.now)
        self.channel.perform(now=self.now)

    def snapshot(self) -> None:
        """A snapshot is taken."""
        hosts = self.channel.cluster.snapshot(now=self.now)
        assert len(hosts) in (0, 3)
        repr(self.channel.cluster)

    def closed(self) -> None:
        """The channel closes."""
        self.channel.close(now=self.now)

    # Invariants that hold after any interruption.

    def check(self) -> None:
        cluster = self.channel.cluster
        for call in self.calls:
            if call not in self.under_way:
                assert call.state.value == "done", call.state
        open_ = [a for call in self.calls for a in call.attempts if a.seconds is None]
        assert sorted(open_, key=id) == sorted((a for c in self.under_way for a in c.attempts), key=id)
        assert cluster.in_flight == len(open_)
        for host in {attempt.host for call in self.calls for attempt in call.attempts}:
            assert host.in_flight == sum(attempt.host is host for attempt in open_), host
        assert cluster.budget.held == 0
        assert cluster.waiting == 0
        for _ in range(2):
            self.now += 1.0
            self.channel.step(now=self.now)
            self.channel.perform(now=self.now)
        hosts = list(cluster.hosts)
        assert cluster.ready == sum(host.state == READY for host in hosts)
        if cluster.closed:
            assert hosts == []
            assert all(link.closed for link in self.channel.every_link)
            return
        assert all(link.closed <= 1 for link in self.channel.every_link)
        assert len(hosts) == 3
        for host in hosts:
            assert host.subchannel is self.channel.links[host.endpoint.address], host
        for link in self.channel.links.values():
            link.is_now = READY
        for _ in range(3):
            self.now += 31.0
            self.channel.step(now=self.now)
            self.channel.perform(now=self.now)
        chosen = {cluster.pick(self.channel.call(), now=self.now) for _ in range(12)}
        assert all(isinstance(host, HostEntry) and not host.removed and host.healthy for host in chosen), chosen
        assert len(chosen) == 3, chosen


OUTER: Final = (
    "plain",
    "retried",
    "ejecting",
    "hedged",
    "answered",
    "cancelled",
    "lost",
    "waiting",
    "renamed",
    "swept",
)
NESTED: Final = ("plain", "retried", "answered", "cancelled", "lost", "renamed", "swept", "snapshot", "closed")
BALANCERS: Final[dict[str, Callable[[], Any]]] = {"plain": RoundRobin, "weighted": LeastRequest, "user's": Turns}
EVERY: Final = {"plain": 7, "weighted": 35, "user's": 35}
"""One of this many points is tried in the gate."""
BY_CONTROL: Final = frozenset({"renamed", "swept"})
"""Steps that only the control thread runs: no signal handler raises there."""


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("outer", OUTER)
def test_any_step_in_the_middle_of_any_other(outer: str, balancer: str, rng: Random) -> None:
    """At any point, no step waits, and afterwards every invariant holds."""
    make = BALANCERS[balancer]
    total = count(getattr(World(make()), outer))
    assert total > 2
    # In the gate each pair of steps gets its share of the points; with all points each pair is tried at each.
    for place, at in enumerate(points(total, rng, EVERY[balancer])):
        for nested in NESTED if total and _every() else (NESTED[place % len(NESTED)],):
            world = World(make())
            interrupt(getattr(world, outer), at, getattr(world, nested))
            try:
                world.check()
            except AssertionError as error:
                raise AssertionError(f"{nested} in the middle of {outer}, at place {at} of {total}") from error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in __del__, it stops there
@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("outer", [name for name in OUTER if name not in BY_CONTROL | {"answered", "cancelled"}])
def test_an_exception_anywhere(outer: str, balancer: str, rng: Random) -> None:
    """Raised by a signal handler at any point of a call, it does not leak an in-flight count or leave a step locked."""
    make = BALANCERS[balancer]

    def expire() -> None:
        raise SoftTimeLimitError

    total = count(getattr(World(make()), outer))
    for at in points(total, rng, EVERY[balancer]):
        world = World(make())
        interrupt(partial(_caught, getattr(world, outer)), at, expire)
        try:
            world.check()
        except AssertionError as error:
            raise AssertionError(f"an exception in {outer}, at place {at} of {total}") from error


def _caught(step: Callable[[], None]) -> None:
    with suppress(SoftTimeLimitError):
        step()


def _every() -> bool:
    return points(2, Random(0)) == range(1, 3)
