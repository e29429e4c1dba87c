"""A user's view of a call."""

import copy
import pickle

import pytest
from tests.core.scripted import METHOD, REFUSED, UNAVAILABLE, ScriptedCluster, ended, host, plan

from meshlib._core.call import Call
from meshlib._core.hedged import machine
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.status import OK, Outcome, local
from meshlib._core.view import AttemptView, CallMesh

A, B = host("a"), host("b")


def new(*picks: object, **more: object) -> Call:
    """A call that has not begun."""
    cluster = ScriptedCluster(*picks)  # type: ignore[arg-type]
    return Call(cluster, plan(RetryPolicy(max_attempts=2)), METHOD, **more)  # type: ignore[arg-type]


def test_attempts_as_they_are_when_asked() -> None:
    """Each attempt's host, start, duration and outcome; in flight it has no end yet."""
    call = new(A, B)
    mesh = CallMesh(call)
    call.begin(now=100.0)
    first = AttemptView(host="a", code=None, start=0.0, seconds=None, why="first", sent=True)
    assert mesh.attempts == (first,)
    call.on_outcome(1, REFUSED, now=100.5)
    assert mesh.attempts == (
        AttemptView(host="a", code="UNAVAILABLE", start=0.0, seconds=0.5, why="first", sent=False),
        AttemptView(host="b", code=None, start=0.5, seconds=None, why="refused", sent=True),
    )


def test_why_a_failure_was_not_tried_again() -> None:
    """The machine's verdict; empty for a successful call."""
    call = new(A)
    call.begin(now=0.0)
    outcome = Outcome("NOT_FOUND")
    call.on_outcome(1, outcome, now=1.0)
    assert CallMesh(call, outcome).why == "NOT_FOUND is not retried"
    good = new(A)
    good.begin(now=0.0)
    good.on_outcome(1, OK, now=1.0)
    assert CallMesh(good, OK).why == ""


NO_HOST = local("UNAVAILABLE", "svc-a has no endpoints")


@pytest.mark.parametrize(
    ("first", "is_local"), [(None, True), (REFUSED, True), (UNAVAILABLE, False), (Outcome("OK"), False)]
)
def test_local_means_that_nothing_was_sent(first: Outcome | None, is_local: bool) -> None:
    """Rejected locally: neither an outcome that a server may have sent, nor a local one after an attempt was sent."""
    call = new(None, deadline=1.0) if first is None else new(A, None, deadline=1.0, wait_for_ready=True)
    call.begin(now=0.0)
    if first is None:
        outcome = ended(call.on_timer(now=1.0))
    else:
        finish = call.on_outcome(1, first, now=0.1)
        if not finish:  # it backs off, or waits for a host, until the deadline
            call.on_timer(now=0.9)
            finish = call.on_timer(now=1.0)
        outcome = ended(finish)
    assert CallMesh(call, outcome).local is is_local


def test_repr() -> None:
    """The repr is readable."""
    call = new(NO_HOST)
    outcome = ended(call.begin(now=0.0))
    assert repr(CallMesh(call, outcome)) == "<mesh local []>"


def test_a_copy_of_what_the_mesh_did_stays_as_it_is() -> None:
    """The copy holds no call, so it can be copied and pickled with its error."""
    call = new(A, B)
    call.begin(now=0.0)
    outcome = Outcome("NOT_FOUND")
    call.on_outcome(1, outcome, now=1.0)
    mesh = CallMesh(call, outcome)
    for made in (copy.copy(mesh), copy.deepcopy(mesh), pickle.loads(pickle.dumps(mesh))):
        assert (made.attempts, made.why, made.local) == (mesh.attempts, "NOT_FOUND is not retried", False)
        assert repr(made) == repr(mesh)
        assert copy.copy(made).attempts == mesh.attempts


def test_the_loser_of_a_hedge_is_cancelled() -> None:
    """Cancelled as soon as another attempt wins, and before grpc reports its end."""
    policy = HedgingPolicy(max_attempts=2, hedging_delay=1.0)
    call = machine(plan(policy))(ScriptedCluster(A, B), plan(policy), METHOD)  # type: ignore[arg-type]
    call.begin(now=0.0)
    call.on_timer(now=1.0)
    call.on_outcome(2, OK, now=2.0)
    assert [attempt.code for attempt in CallMesh(call, OK).attempts] == ["CANCELLED", "OK"]
