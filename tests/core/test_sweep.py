"""The sweep over the connections of one service, and how often it runs. Each test sets the time."""

import pytest
from tests.core.channels import Channel
from tests.core.scripted import REFUSED, brief

from meshlib._core.connectivity import CONNECTING, IDLE, READY, SHUTDOWN, TRANSIENT_FAILURE
from meshlib._core.connectivity_poll import GROWTH, POLL_FIRST, POLL_LAST, QUIET, SWEEP
from meshlib._core.events import HostUnreachable
from meshlib._core.health.unreachable import PATIENCE
from meshlib._core.status import OK
from meshlib._core.sweep import sweep, unchanged

# --- connections -------------------------------------------------------------------


def test_the_pick_asks_the_host_it_chose() -> None:
    """A connection lost unseen gets no call; the control plane is notified, and one re-resolution follows."""
    channel = Channel.of("a", "b")
    channel.links["a"].is_now = IDLE
    before = channel.asked_for_attention
    for _ in range(10):
        (start,) = channel.call().begin(now=0.5)
        assert brief([start]) == ["start 1 b first"]
    assert channel.asked_for_attention == before + 1
    channel.step(now=1.0)
    assert channel.lookups == 1
    assert channel.cluster.ready == 1


def test_a_refused_call_takes_its_host_out() -> None:
    """The first refused call takes a dead host out of the picker, long before the next sweep."""
    channel = Channel.of("a", "b")
    call = channel.call()
    (start,) = call.begin(now=1.0)
    dead = start.record.host.endpoint.address  # type: ignore[union-attr]
    channel.links[dead].is_now = TRANSIENT_FAILURE
    (again,) = call.on_outcome(1, REFUSED, now=1.0)
    assert brief([again]) == [f"start 2 {'b' if dead == 'a' else 'a'} refused"]
    assert channel.cluster.ready == 1


def test_becoming_failing_is_one_lookup() -> None:
    """A lost connection, or a failed first one, causes one re-resolution; a host that stays failing causes no more."""
    channel = Channel.of("a", "b")
    for state in (IDLE, CONNECTING, TRANSIENT_FAILURE, CONNECTING, TRANSIENT_FAILURE):
        channel.put("a", state, now=1.0)
    assert channel.lookups == 1
    channel.put("a", READY, now=2.0)
    channel.put("a", TRANSIENT_FAILURE, now=3.0)
    assert channel.lookups == 2
    channel.resolve("a", "b", "c", now=4.0)
    channel.put("c", TRANSIENT_FAILURE, now=5.0)
    assert channel.lookups == 3


def test_hosts_that_fail_together_are_one_lookup() -> None:
    """A sweep that finds several failed hosts requests one re-resolution."""
    channel = Channel.of("a", "b", "c")
    for name in "abc":
        channel.links[name].is_now = TRANSIENT_FAILURE
    channel.step(now=10.0)
    assert channel.lookups == 1


def test_the_sweep_looks_at_all_hosts() -> None:
    """The sweep runs ten times a second, and takes the lock more than once for hundreds of hosts."""
    channel = Channel.of(*(f"h{n}" for n in range(200)))
    due = channel.cluster.next_timer()
    assert due is not None
    before = [link.asked for link in channel.every_link]
    channel.step(now=due)
    assert [link.asked for link in channel.every_link] == [count + 1 for count in before]
    assert channel.cluster.next_timer() == due + SWEEP


def test_it_looks_less_often_while_nobody_calls_and_nothing_changes() -> None:
    """A call that ends or is in flight, or a lost host, restores ten sweeps a second."""
    channel = Channel.of("a", "b")

    def gap() -> float:
        due = channel.cluster.next_timer()
        assert due is not None
        channel.step(now=due)
        after = channel.cluster.next_timer()
        assert after is not None
        return after - due

    assert [gap() for _ in range(6)] == pytest.approx([SWEEP, 0.2, 0.4, 0.8, QUIET, QUIET])
    channel.pick()
    assert [gap(), gap()] == pytest.approx([SWEEP, 0.2])
    call = channel.call()
    call.begin(now=50.0)
    assert [gap(), gap()] == pytest.approx([SWEEP, SWEEP])
    call.on_outcome(1, OK, now=51.0)
    assert [gap(), gap()] == pytest.approx([SWEEP, 0.2])
    channel.links["a"].is_now = CONNECTING
    assert [gap(), gap()] == pytest.approx([SWEEP, 0.2])


def test_how_often_it_looks_while_a_call_waits() -> None:
    """Sweeps slow from 0.3 ms to 20 ms, then to ten a second. A second call does not restart them."""
    channel = Channel.of("a")
    channel.step(now=99.99)
    channel.put("a", CONNECTING, now=100.0)
    call = channel.call()
    call.begin(now=100.0)
    due = channel.cluster.next_timer()
    assert due == 100.0 + POLL_FIRST
    gaps = []
    for n in range(12):
        channel.step(now=due)
        if n == 5:
            channel.call().begin(now=due)
        next_due = channel.cluster.next_timer()
        assert next_due is not None
        gaps.append(next_due - due)
        due = next_due
    assert gaps == pytest.approx([min(POLL_FIRST * GROWTH ** (n + 1), POLL_LAST) for n in range(12)])
    channel.put("a", READY, now=due)
    channel.step(now=due)
    assert channel.cluster.next_timer() == due + SWEEP


def test_attention_before_the_timer_does_not_sweep() -> None:
    """Attention performs pending commands and does not sweep."""
    channel = Channel.of("a")
    channel.step(now=1.0)
    before = channel.links["a"].asked
    channel.step(now=1.05)
    assert channel.links["a"].asked == before


def test_nothing_to_look_at() -> None:
    """Without a host no timer is due."""
    channel = Channel.of("a")
    assert channel.cluster.next_timer() is not None
    channel.resolve(now=1.0)
    assert channel.cluster.next_timer() is None
    channel.call(wait_for_ready=True).begin(now=1.0)
    channel.step(now=1.0)
    assert channel.cluster.next_timer() is None


def test_the_state_of_the_channel() -> None:
    """IDLE, CONNECTING, then gRPC's round robin rule over the hosts; changes are notified."""
    channel = Channel()
    assert channel.cluster.connectivity == IDLE
    channel.step(now=0.0)
    channel.resolve("a", "b", now=1.0)
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    channel.put("b", READY, now=2.0)
    channel.put("b", IDLE, now=3.0)
    channel.put("b", TRANSIENT_FAILURE, now=4.0)
    channel.resolve(now=5.0)
    channel.close(now=6.0)
    assert channel.states == [CONNECTING, READY, CONNECTING, TRANSIENT_FAILURE, SHUTDOWN]


# --- unreachable hosts -------------------------------------------------------------


def test_a_host_that_stays_unreachable_is_asked_why_and_told() -> None:
    """The snapshot has the reason; the event is for the log, if other hosts are connected."""
    channel = Channel.of("a", "b")
    channel.put("b", TRANSIENT_FAILURE, now=10.0)
    assert channel.diagnosed == []
    assert channel.cluster.next_timer() is not None
    channel.step(now=10.0 + PATIENCE)
    assert channel.diagnosed == ["b"]
    channel.cluster.on_reason(channel.host("b"), "refused", now=11.5)
    (event,) = channel.ear.heard(HostUnreachable)
    assert (event.address, event.reason, event.ready, event.hosts) == ("b", "refused", 1, 2)
    a, b = channel.cluster.snapshot(now=12.0)
    assert (a.last_error, b.last_error, b.state_since) == ("", "refused", 2.0)
    channel.put("b", READY, now=13.0)
    channel.step(now=20.0)
    assert channel.cluster.snapshot(now=20.0)[1].last_error == ""
    assert channel.diagnosed == ["b"]


def test_hosts_that_all_fail_are_no_news_for_the_log() -> None:
    """If all hosts fail, the errors of calls have the reason."""
    channel = Channel.of("a")
    channel.put("a", TRANSIENT_FAILURE, now=10.0)
    channel.step(now=10.0 + PATIENCE)
    channel.cluster.on_reason(channel.host("a"), "refused", now=11.5)
    assert channel.cluster.snapshot(now=12.0)[0].last_error == "refused"
    assert channel.ear.heard(HostUnreachable) == []


class Closing:
    """A subchannel that is closed while it is polled."""

    def state(self, connect: bool) -> int:
        raise ValueError

    def glance(self) -> int | None:
        raise ValueError


@pytest.mark.parametrize(("gone", "settled"), [("closed", False), ("absent", True), ("removed", False)])
def test_a_sweep_passes_over_what_goes_away_meanwhile(gone: str, settled: bool) -> None:
    """A subchannel that another thread closes, one that is missing, and a removed host; the others are seen."""
    channel = Channel.of("a", "b")
    hosts = channel.cluster.hosts
    host = channel.host("a")
    if gone == "closed":
        host.subchannel = Closing()
    elif gone == "absent":
        host.subchannel = None
    else:
        host.removed = True
        channel.links["a"].is_now = IDLE
    channel.links["b"].is_now = IDLE
    sweep(hosts, channel.cluster._steps.serializer, now=2.0)
    assert (channel.host("a").state, channel.host("b").state) == (READY, IDLE)
    assert unchanged(hosts) is settled
