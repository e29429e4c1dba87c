"""Calls that wait for a host: fail-fast and ``wait_for_ready``. Each test sets the time."""

import pytest
from tests.core.channels import Channel
from tests.core.scripted import brief, ended

from meshlib._core.cluster import CLOSED
from meshlib._core.connectivity import IDLE, READY, TRANSIENT_FAILURE


def test_fail_fast_waits_while_the_name_is_resolved() -> None:
    """The call waits for the resolver, then fails with its reason if there is no host."""
    channel = Channel()
    call = channel.call()
    assert call.begin(now=0.0) == ()
    channel.fail("NXDOMAIN", now=1.0)
    assert channel.woken == [call]
    outcome = ended(call.on_endpoints(now=1.0))
    assert (outcome.code, outcome.local) == ("UNAVAILABLE", True)
    assert outcome.details == "'svc-a' has no endpoints: NXDOMAIN"


def test_fail_fast_waits_while_anything_connects() -> None:
    """One host that may still become ready keeps the call waiting, however many have failed."""
    channel = Channel()
    channel.resolve("a", "b", now=0.0)
    channel.put("a", TRANSIENT_FAILURE, now=0.5)
    call = channel.call()
    assert call.begin(now=1.0) == ()
    channel.put("b", READY, now=2.0)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=2.0)) == ["start 1 b first"]


def test_wait_for_ready_waits() -> None:
    """Neither a failed resolution nor failing hosts end the call or wake it repeatedly."""
    channel = Channel()
    call = channel.call(wait_for_ready=True)
    assert call.begin(now=0.0) == ()
    channel.fail("NXDOMAIN", now=1.0)
    channel.resolve("a", now=2.0)
    channel.put("a", TRANSIENT_FAILURE, now=3.0)
    for _ in range(3):
        channel.step(now=4.0)
    assert channel.woken == []
    channel.put("a", READY, now=5.0)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=5.0)) == ["start 1 a first"]


def test_a_call_waits_for_the_picker_to_be_built() -> None:
    """Both kinds of call wait for a picker if a ready host has none."""
    channel = Channel(defer=True)
    channel.resolve("a", now=0.0)
    channel.perform(now=0.0)
    channel.put("a", READY, now=1.0)
    calls = [channel.call(), channel.call(wait_for_ready=True)]
    assert [call.begin(now=1.0) for call in calls] == [(), ()]
    channel.perform(now=2.0)
    assert channel.woken == calls


def test_a_call_that_leaves_is_not_woken() -> None:
    """A call cancelled while it waits is removed from the queue."""
    channel = Channel()
    call = channel.call()
    call.begin(now=0.0)
    call.on_cancel(CLOSED, now=0.5)
    channel.resolve("a", now=1.0)
    channel.put("a", READY, now=2.0)
    assert channel.woken == []


@pytest.mark.parametrize(
    ("named", "state", "failure", "words"),
    [
        (None, None, None, "'svc-a' is still being resolved"),
        ([], None, None, "'svc-a' has no endpoints: the resolver returned no endpoints"),
        (["a"], None, None, "no endpoint of 'svc-a' is ready: 1 CONNECTING"),
        (["a"], IDLE, "SERVFAIL", "no endpoint of 'svc-a' is ready: 1 IDLE; the last resolution failed: SERVFAIL"),
        (["a", "b", "c", "d", "e"], None, None, "no endpoint of 'svc-a' is ready: 5 CONNECTING"),
    ],
)
def test_situation(named: list[str] | None, state: int | None, failure: str | None, words: str) -> None:
    """The reason that there is no host, as used in error details: without addresses."""
    channel = Channel()
    if named is not None:
        channel.resolve(*named, now=0.0)
    if state is not None:
        channel.put("a", state, now=0.5)
    if failure is not None:
        channel.fail(failure, now=1.0)
    assert channel.cluster.situation() == words
