"""Calls and clusters after an exception, or another step, in the middle of their own: the cases of
``test_reentrancy.py`` that can be produced without interrupting at an instruction."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.core.channels import Channel
from tests.core.scripted import CANCELLED, UNAVAILABLE, ScriptedCluster, brief, host

from meshlib._core.attempts.policy import RetryBudget, RetryPolicy
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.call_record import DONE
from meshlib._core.cluster_steps import ClusterSteps
from meshlib._core.commands import Open
from meshlib._core.connectivity import READY
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import PluginFailed
from meshlib._core.policy import HedgingPolicy
from meshlib._core.serial import ALONE, WorkSerializer
from meshlib._core.sharing import Sharing
from meshlib._core.status import OK

RETRY = RetryPolicy(initial_backoff=0.01, max_backoff=0.01)


class SignalError(Exception):
    """Raised by a signal handler."""


# --- calls ---------------------------------------------------------------------------


def test_an_abandoned_call_leaves_its_attempt_to_be_reported() -> None:
    """The call is over; its attempt counts as in flight until its end is reported."""
    channel = Channel.of("a")
    call = channel.call()
    call.begin(now=1.0)
    [attempt] = call.abandon(CANCELLED, now=2.0)
    assert (call.state, attempt.outcome, channel.cluster.in_flight) == (DONE, CANCELLED, 1)
    assert call.on_outcome(attempt.n, OK, now=3.0) == ()
    assert channel.cluster.in_flight == 0


def test_an_abandoned_call_releases_the_host_of_its_pick() -> None:
    """Between the pick and the attempt, no attempt will be reported."""
    channel = Channel.of("a")
    call = channel.call()
    channel.cluster.pick(call, now=1.0)
    assert channel.host("a").in_flight == channel.cluster.in_flight == 1
    before = channel.asked_for_attention
    assert call.abandon(CANCELLED, now=1.0) == ()
    assert channel.host("a").in_flight == channel.cluster.in_flight == 0
    assert channel.asked_for_attention > before
    channel.cluster.release_pick(call)
    assert channel.cluster.in_flight == 0


@pytest.mark.parametrize("policy", [RETRY, HedgingPolicy(max_attempts=2, hedging_delay=0.01)])
def test_an_abandoned_call_releases_its_retry_budget(policy: Any) -> None:
    """During a back-off, and with a retry or a hedge in flight."""
    for steps in range(1, 4):
        channel = Channel.of("a", "b", budget=RetryBudget())
        call = channel.call(policy)
        call.begin(now=1.0)
        if steps > 1 and isinstance(policy, RetryPolicy):
            call.on_outcome(1, UNAVAILABLE, now=1.0)
        if steps > 2 and (timer := call.next_timer()) is not None:
            call.on_timer(now=timer)
        for attempt in call.abandon(CANCELLED, now=2.0):
            call.on_outcome(attempt.n, CANCELLED, now=2.0)
        assert (channel.cluster.budget.held, channel.cluster.in_flight, call.next_timer()) == (0, 0, None)


def test_a_call_abandoned_between_budget_and_pick_releases_the_budget() -> None:
    """A hedge that has been admitted and has no host yet."""
    cluster = ScriptedCluster(host("a"))
    call: Any = Channel().call(HedgingPolicy())
    call.cluster = cluster
    assert cluster.acquire(call)
    call.abandon(CANCELLED, now=1.0)
    assert (cluster.held, call.holds) == (0, False)


# --- picks ---------------------------------------------------------------------------


def test_a_host_removed_during_its_pick_is_not_picked() -> None:
    """The resolver's answer may be applied while a pick reads the connection: the pick starts again."""
    channel = Channel.of("a", "b", now=0.0)

    def removed(connect: bool) -> int:
        channel.resolve("b", now=1.0)
        return READY

    channel.links["a"].state = removed
    assert [channel.pick(now=1.0) for _ in range(2)] == ["b", "b"]
    assert channel.closed == ["a"]


class Waits:
    """A balancer whose picker queues a call while its host has an attempt in flight; ``meanwhile`` runs in the pick."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None

    def picker(self, hosts: Any, *, rng: object) -> Any:
        balancer = self

        class Picker:
            def pick(self, call: object, *, now: float) -> Any:
                free = [each for each in hosts if each.in_flight == 0]
                balancer.meanwhile()
                return free[0] if free else None

        return Picker()


def test_a_change_during_the_pick_that_queues_a_call_is_not_missed() -> None:
    """The attempt that it would wait for ends in the middle of the pick: the call is sent."""
    balancer = Waits()
    channel = Channel.of("a", balancer=balancer)
    flying, second = channel.call(), channel.call()
    flying.begin(now=1.0)

    def ends() -> None:
        balancer.meanwhile = lambda: None
        flying.on_outcome(1, OK, now=2.0)

    balancer.meanwhile = ends
    assert brief(second.begin(now=2.0)) == ["start 1 a first"]


def closed(connect: bool) -> int:
    """The state of a subchannel that another thread has just closed."""
    raise ValueError("closed")


def test_a_subchannel_closed_during_a_pick_is_passed_over() -> None:
    """The read of its state raises; another host is picked."""
    channel = Channel.of("a", "b")
    channel.links["a"].state = closed
    assert [channel.pick(now=1.0) for _ in range(4)] == ["b"] * 4


def test_a_subchannel_closed_before_its_failure_is_reported() -> None:
    """The failure counts, and the in-flight count is released."""
    channel = Channel.of("a")
    call = channel.call()
    call.begin(now=1.0)
    channel.links["a"].state = closed
    assert brief(call.on_outcome(1, UNAVAILABLE, now=2.0)) == ["finish 1 UNAVAILABLE"]
    assert (channel.cluster.in_flight, channel.host("a").failures) == (0, 1)


def test_a_subchannel_closed_while_another_is_numbered() -> None:
    """Its connection is shared: a closed one is known to be no slower."""
    channel = Channel.of("a")
    sharing = Sharing()
    first = sharing.number("key", channel.host("a"))
    channel.links["a"].glance = lambda: closed(True)
    assert sharing.number("key", host("a")) == first


class Explosive(int):
    """A count whose use raises, as a signal handler may at that point."""

    def __add__(self, other: object) -> int:
        raise SignalError


def test_an_exception_in_a_built_in_pick_reaches_the_caller_and_is_repaired() -> None:
    """It is the application's own: it is not reported as the balancer's. The next timer repairs the cluster."""
    channel = Channel.of(
        *(Endpoint(address=name, weight=n) for n, name in enumerate("abc", 1)), balancer=LeastRequest()
    )
    for each in channel.cluster.hosts:
        each.in_flight = Explosive()
    with pytest.raises(SignalError):
        channel.pick(now=1.0)
    for each in channel.cluster.hosts:
        each.in_flight = 0
    channel.cluster.in_flight = 0
    channel.step(now=2.0)
    assert {channel.pick(now=2.0) for _ in range(12)} == {"a", "b", "c"}
    assert channel.ear.heard(PluginFailed) == []


# --- steps ---------------------------------------------------------------------------


def test_a_queued_step_that_raises_leaves_the_serializer_free() -> None:
    """It counts as torn, is not run again, and the next step runs."""
    serializer = WorkSerializer()

    def raises() -> None:
        raise SignalError

    with pytest.raises(SignalError):
        serializer.run(lambda: serializer.run(raises, None), None)
    assert (serializer.torn, serializer.owner) == (True, 0)
    assert serializer.run(lambda: "next", None) == "next"


def test_a_shell_with_one_thread_never_waits_for_another() -> None:
    """A step is queued at once if another thread runs one."""
    serializer = WorkSerializer(ALONE)
    serializer.owner = ALONE.ident() + 1
    assert serializer.run(lambda: "ran", "queued") == "queued"


class Taken(list[Any]):
    """A queue whose last item another thread takes between the check and the removal."""

    def popleft(self) -> Any:
        self.clear()
        raise IndexError


def test_two_threads_that_take_commands_and_events() -> None:
    """The slower one gets nothing, and raises nothing."""
    heard: list[Any] = []

    class Observer:
        on_channel_event = heard.append

    steps: Any = ClusterSteps(ALONE, lambda: None, Observer())
    steps.commands = Taken([Open(host("a"))])
    steps.events = Taken(["event"])
    assert steps.take() == ()
    steps.publish()
    assert heard == []


def test_without_an_observer_events_are_not_recorded() -> None:
    """Nothing is kept, and nothing is published."""
    steps: Any = ClusterSteps(ALONE, lambda: None, None)
    steps.note("event")
    steps.publish()
    assert steps.events is None
