"""Priorities of hosts in the machine of one service (RFC 2782). Each test sets the time."""

import pytest
from tests.core.channels import Channel
from tests.core.picks import shares, tiers
from tests.core.scripted import brief

from meshlib._core.balancing.priorities import Priorities
from meshlib._core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.policy import OutlierDetection
from meshlib._core.status import Outcome


def test_the_first_priority_with_a_ready_host() -> None:
    """The better priority gets every call while it has a ready host; a dead one fails over and back."""
    channel = Channel.of(*tiers(a=0, b=0, c=1))
    assert set(shares(channel)) == {"a", "b"}
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    assert set(shares(channel)) == {"b"}
    channel.put("b", TRANSIENT_FAILURE, now=1.0)
    assert set(shares(channel)) == {"c"}
    channel.put("b", CONNECTING, now=2.0)
    assert set(shares(channel)) == {"c"}
    channel.put("b", READY, now=3.0)
    assert set(shares(channel)) == {"b"}


def test_retries_stay_in_the_priority_while_it_has_a_host() -> None:
    """A second attempt prefers an already tried host to a worse priority."""
    channel = Channel.of(*tiers(a=0, c=1))
    call = channel.call()
    call.begin(now=1.0)
    assert channel.pick(call, now=1.0) == "a"


def test_a_better_priority_is_waited_for_at_the_start() -> None:
    """A better priority that has not failed is about to connect."""
    channel = Channel()
    channel.resolve(*tiers(a=0, c=1), now=0.0)
    channel.put("c", READY, now=1.0)
    call = channel.call()
    assert call.begin(now=1.0) == ()
    channel.put("a", TRANSIENT_FAILURE, now=2.0)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=2.0)) == ["start 1 c first"]


@pytest.mark.parametrize("factor", [None, 1.4])
def test_an_ejected_host_beside_a_priority_that_is_gone(factor: float | None) -> None:
    """An ejected host that is the only one is used: a priority without a connection does not prevent panic."""
    channel = Channel.of(
        Endpoint(address="a", priority=0),
        Endpoint(address="b", priority=1),
        balancer=Priorities(overprovisioning_factor=factor),
        outlier_detection=OutlierDetection(consecutive_gateway_failure=1),
    )
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    call = channel.call()
    assert brief(call.begin(now=1.0)) == ["start 1 b first"]
    call.on_outcome(1, Outcome("UNAVAILABLE"), now=2.0)
    channel.step(now=2.0)
    assert channel.host("b").ejection is not None
    assert channel.pick(now=3.0) == "b"
    assert channel.cluster.panic == (1,)


def test_a_better_priority_is_not_waited_for_later() -> None:
    """Once calls have been served, a new host of a better priority does not make calls wait."""
    channel = Channel.of(*tiers(c=1))
    channel.put("c", IDLE, now=1.0)
    channel.resolve(*tiers(a=0, c=1), now=2.0)
    channel.put("c", READY, now=3.0)
    assert set(shares(channel)) == {"c"}
    channel.put("a", READY, now=4.0)
    assert set(shares(channel)) == {"a"}


def test_a_better_priority_that_is_taken_back() -> None:
    """Calls no longer wait for it."""
    channel = Channel()
    channel.resolve(*tiers(a=0, c=1), now=0.0)
    channel.put("c", READY, now=1.0)
    call = channel.call()
    call.begin(now=1.0)
    channel.resolve(*tiers(c=1), now=2.0)
    assert channel.woken == [call]


def test_the_true_reason_of_failing_hosts_is_of_the_best_priority() -> None:
    """The reported reason is that of the best priority."""
    channel = Channel()
    channel.resolve(*tiers(a=1, b=0, c=2), now=0.0)
    for name in "abc":
        channel.put(name, TRANSIENT_FAILURE, now=1.0)
    assert shares(channel) == {"b": 60}
