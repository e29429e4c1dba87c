"""Polls of a cluster at rest: a poll that finds nothing changed needs no step, and the polls become rarer."""

from collections.abc import Callable

import pytest
from tests.core.channels import Channel
from tests.core.scripted import UNAVAILABLE

from meshlib._core.cluster import POSTPONED, ClusterMachine
from meshlib._core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from meshlib._core.connectivity_poll import POLL_FIRST, QUIET
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.health.unreachable import PATIENCE
from meshlib._core.status import OK


def due(cluster: ClusterMachine) -> float:
    """The time of the next timer, which there must be."""
    timer = cluster.next_timer()
    assert timer is not None
    return timer


def at_rest(**policies: OutlierDetection) -> Channel:
    """A channel with two connected hosts, without calls, whose last poll found nothing changed."""
    channel = Channel.of("a", "b", **policies)
    channel.step(now=due(channel.cluster))
    return channel


def asked(channel: Channel) -> int:
    """Number of reads of a connection's state."""
    return sum(link.asked for link in channel.every_link)


def test_a_poll_that_finds_nothing_schedules_the_next() -> None:
    """Each connection is read once, and the timer moves on, up to the longest interval."""
    channel = at_rest()
    cluster = channel.cluster
    for _ in range(8):
        before, now = asked(channel), due(cluster)
        assert cluster.look(now=now)
        assert asked(channel) == before + 2
        assert due(cluster) > now
    assert due(cluster) == pytest.approx(now + QUIET)
    assert cluster.resting


def test_before_its_time_nothing_is_polled() -> None:
    """Before the timer there is nothing to do, unless the poll may be early."""
    channel = at_rest()
    before, timer = asked(channel), due(channel.cluster)
    assert channel.cluster.look(now=timer - 0.02)
    assert (asked(channel), due(channel.cluster)) == (before, timer)
    assert channel.cluster.look(now=timer - 0.02, early=0.03)
    assert asked(channel) == before + 2
    assert due(channel.cluster) > timer


def test_a_changed_connection_needs_a_step() -> None:
    """A poll that finds a changed state leaves it to the timer's step, which applies it."""
    channel = at_rest()
    channel.links["b"].is_now = CONNECTING
    now = due(channel.cluster)
    assert not channel.cluster.look(now=now)
    assert due(channel.cluster) == now
    channel.step(now=now)
    assert channel.cluster.ready == 1


def test_a_change_that_a_call_found_needs_a_step() -> None:
    """A connection found lost by a pick has to be reported, and a picker rebuilt."""
    channel = at_rest()
    channel.links["b"].is_now = TRANSIENT_FAILURE
    for _ in range(2):
        channel.pick(now=1.0)
    assert not channel.cluster.look(now=1.0)


def test_a_host_to_be_diagnosed_needs_a_step() -> None:
    """Once a host has failed to connect for a while, the reason is fetched."""
    channel = at_rest()
    channel.put("b", TRANSIENT_FAILURE, now=1.0)
    channel.step(now=1.0)
    assert channel.cluster.look(now=1.0)
    assert not channel.cluster.look(now=1.0 + PATIENCE)
    channel.step(now=1.0 + PATIENCE)
    assert channel.diagnosed == ["b"]


def test_a_closed_cluster_has_nothing_to_poll() -> None:
    """A poll of a closed cluster reports a change, and reads no connection."""
    channel = at_rest()
    now = due(channel.cluster)
    channel.close(now=now)
    before = asked(channel)
    assert not channel.cluster.look(now=now)
    assert asked(channel) == before
    assert channel.cluster.next_timer() is None


def test_outlier_detection_with_nothing_to_judge_needs_no_step() -> None:
    """Without a call since the last sweep, the sweep of outlier detection is postponed by an interval."""
    channel = at_rest(outlier_detection=OutlierDetection(interval=5.0))
    channel.step(now=20.0)
    assert channel.cluster.look(now=25.0)
    assert channel.cluster.look(now=30.0)


def test_outlier_detection_with_something_to_judge_needs_a_step() -> None:
    """After a call, or while a host is ejected, the sweep of outlier detection runs in a step."""
    channel = at_rest(
        outlier_detection=OutlierDetection(interval=5.0, consecutive_gateway_failure=1, base_ejection_time=60.0)
    )
    channel.step(now=20.0)
    channel.pick(now=21.0)
    assert not channel.cluster.look(now=25.0)
    channel.step(now=25.0)
    call = channel.call()
    call.begin(now=26.0)
    call.on_outcome(1, UNAVAILABLE, now=26.0)
    channel.step(now=26.0)
    channel.step(now=40.0)
    assert any(host.ejected for host in channel.cluster.hosts)
    assert not channel.cluster.look(now=50.0)


def test_a_waiting_call_keeps_the_cluster_from_resting() -> None:
    """However long it waits."""
    channel = at_rest()
    now = 0.0
    for _ in range(8):
        now = due(channel.cluster)
        channel.step(now=now)
    assert channel.cluster.resting
    for link in channel.links.values():
        link.is_now = CONNECTING
    channel.step(now=now + QUIET)
    channel.call().begin(now=now + QUIET)
    assert not channel.cluster.resting


def test_the_application_that_waits_for_readiness_hurries_the_poll() -> None:
    """The next poll is the shortest interval away."""
    channel = at_rest()
    now = due(channel.cluster) - 0.05
    channel.cluster.hurry(now=now)
    assert due(channel.cluster) == pytest.approx(now + POLL_FIRST)


class Interrupting:
    """A balancer during whose picks the timer's step is requested, as by a signal handler."""

    def __init__(self) -> None:
        self.interrupt: Callable[[], object] = lambda: None
        self.made = 0

    def picker(self, hosts: object, *, rng: object) -> object:
        self.made += 1
        return Picker(self, hosts)


class Picker:
    """Its picks are steps of the cluster."""

    def __init__(self, balancer: Interrupting, hosts: object) -> None:
        self.balancer, self.hosts = balancer, hosts

    def pick(self, call: object, *, now: float) -> object:
        self.balancer.interrupt()
        return self.hosts[0]


def test_a_timer_in_the_middle_of_a_step_is_tried_again_soon() -> None:
    """Its step does not run, changes nothing, and is postponed for a moment."""
    balancer = Interrupting()
    channel = Channel.of("a", "b", balancer=balancer)
    balancer.interrupt = lambda: channel.cluster.on_timer(now=50.0)
    assert channel.pick(now=50.0) == "a"
    assert due(channel.cluster) == 50.0 + POSTPONED
    balancer.interrupt = lambda: None
    channel.step(now=50.0 + POSTPONED)
    assert due(channel.cluster) > 50.0 + POSTPONED


def test_a_rebuild_of_what_is_current_makes_no_picker() -> None:
    """Neither on the control plane's thread nor on another."""
    balancer = Interrupting()
    channel = Channel.of("a", "b", balancer=balancer)
    made = balancer.made
    assert made > 0
    channel.cluster.rebuild_aside(now=1.0)
    assert channel.cluster.rebuild(now=1.0) == ()
    assert balancer.made == made


def test_a_channel_closed_while_its_picker_is_built_stays_closed() -> None:
    """A balancer may run any code, even close the channel."""
    balancer = Interrupting()
    channel = Channel.of("a", "b", balancer=balancer)

    def closes(hosts: object, *, rng: object) -> object:
        channel.close(now=2.0)
        return Picker(balancer, hosts)

    balancer.picker = closes
    channel.resolve("a", "b", "c", now=1.0)
    channel.put("c", READY, now=2.0)
    assert list(channel.cluster.hosts) == []
    assert "CANCELLED" in channel.pick(now=3.0)
    assert {link.closed for link in channel.every_link} == {1}


def test_a_connected_host_has_no_reason() -> None:
    """A diagnosis that arrives after the host is connected again, or an empty one, is dropped."""
    channel = at_rest()
    host = channel.host("a")
    channel.cluster.on_reason(host, "no route to host", now=1.0)
    assert host.last_error == ""
    channel.put("a", TRANSIENT_FAILURE, now=2.0)
    channel.cluster.on_reason(host, "no route to host", now=2.0)
    channel.cluster.on_reason(host, "", now=3.0)
    assert host.last_error == "no route to host"


def test_calls_that_end_are_seen_by_the_poll() -> None:
    """A cluster with a call between two polls is not at rest."""
    channel = at_rest()
    call = channel.call()
    call.begin(now=0.2)
    call.on_outcome(1, OK, now=0.2)
    assert channel.cluster.look(now=due(channel.cluster))
    assert not channel.cluster.resting
