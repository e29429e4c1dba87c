"""The table of stages: its order, its figure, and every call as a path through it."""

import pytest
from tests.core.scripted import CANCELLED, METHOD, REFUSED, UNAVAILABLE, Ear, ScriptedCluster, assert_path, host, plan

from meshlib._core.call import Call
from meshlib._core.events import (
    AttemptEnded,
    AttemptStarted,
    Broken,
    CallEvent,
    Ejected,
    NotRetried,
    PickQueued,
    Retrying,
)
from meshlib._core.hedged import machine
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.stages import STAGES, figure
from meshlib._core.status import OK

A, B = host("a"), host("b")


def test_the_order() -> None:
    """Stages per call precede stages per attempt, with the application's code at both ends."""
    scopes = [stage.scope for stage in STAGES]
    assert scopes == sorted(scopes, reverse=True)
    inside = [stage.inside for stage in STAGES]
    assert inside.index(True) == inside.count(False) - inside[::-1].index(True)
    names = [stage.name for stage in STAGES]
    assert len(names) == len(set(names))
    assert all(stage.why for stage in STAGES)


def test_the_figure() -> None:
    """The chain in one line, the machine's part in brackets."""
    assert figure() == (
        "interceptors > span > [ deadline > retry > pick > breaker > in_flight > outlier > load ]"
        " > attempt_interceptors > send"
    )


def test_every_event_belongs_to_a_stage() -> None:
    """The names in events are those of the table, and of the machine's part of it."""
    inside = {stage.name for stage in STAGES if stage.inside}
    events: list[type[CallEvent]] = [PickQueued, Broken, AttemptStarted, Ejected, AttemptEnded, Retrying, NotRetried]
    assert {event.stage for event in events} <= inside


def finished(call: Call) -> None:
    """One successful attempt."""
    call.on_outcome(1, OK, now=1.0)


def retried(call: Call) -> None:
    """Two failures and a success."""
    for n in (1, 2):
        call.on_outcome(n, UNAVAILABLE, now=float(n))
        call.on_timer(now=n + 0.5)
    call.on_outcome(3, OK, now=4.0)


def refused(call: Call) -> None:
    """A transparent retry, and the retry of its failure."""
    call.on_outcome(1, REFUSED, now=1.0)
    call.on_outcome(2, UNAVAILABLE, now=1.0)
    call.on_timer(now=2.0)
    call.on_outcome(3, CANCELLED, now=3.0)


def cancelled(call: Call) -> None:
    """Its attempt ends after the call."""
    call.on_cancel(CANCELLED, now=1.0)
    call.on_outcome(1, CANCELLED, now=1.1)


def given_up(call: Call) -> None:
    """A stream without a message: its attempt ends after the next has been decided."""
    call.on_timer(now=1.0)
    call.on_timer(now=2.0)
    call.on_outcome(1, CANCELLED, now=2.1)
    call.on_outcome(2, OK, now=2.2)


def hedged(call: Call) -> None:
    """Two parallel copies, the first of them slower."""
    call.on_timer(now=1.0)
    call.on_outcome(2, OK, now=1.5)
    call.on_outcome(1, CANCELLED, now=1.6)


@pytest.mark.parametrize(
    ("story", "policy", "trace"),
    [
        (finished, None, "pick in_flight load"),
        (retried, RetryPolicy(), "pick in_flight load retry in_flight load retry in_flight load"),
        (refused, RetryPolicy(), "pick in_flight load in_flight load retry in_flight load retry"),
        (cancelled, None, "pick in_flight load"),
        (given_up, RetryPolicy(per_attempt_timeout=1.0), "pick in_flight retry in_flight load load"),
        (hedged, HedgingPolicy(hedging_delay=1.0), "pick in_flight in_flight load load"),
    ],
)
def test_a_trace_is_a_path_through_the_table(
    story: object, policy: RetryPolicy | HedgingPolicy | None, trace: str
) -> None:
    """Attempts go down the table in its order; steps after a failure begin above it."""
    ear = Ear()
    call = machine(plan(policy))(ScriptedCluster(None, A, B), plan(policy), METHOD, streaming=True)  # type: ignore[arg-type]
    call.observe(ear)
    call.on_reading(now=0.0)
    call.begin(now=0.0)
    call.on_endpoints(now=0.0)
    story(call)  # type: ignore[operator]
    assert_path(ear.calls)
    assert " ".join(event.stage for event in ear.calls) == trace


def test_what_is_no_path() -> None:
    """The check detects an attempt that goes up, one never started, and one that waits for a host it has."""
    started = AttemptStarted(at=0.0, n=1, address="a", why="first")
    ended = AttemptEnded(at=1.0, n=1, address="a", code="OK", seconds=1.0)
    for events in ([started, ended, ended], [started, AttemptStarted(at=0.0, n=3, address="a", why="hedge")]):
        with pytest.raises(AssertionError):
            assert_path(events)
    with pytest.raises(KeyError):
        assert_path([ended])
    with pytest.raises(AssertionError):
        assert_path([PickQueued(at=0.0), PickQueued(at=1.0)])
