"""``HostSet`` by itself: what each change does to membership, counts, events and commands."""

import math

import pytest
from tests.core.host_sets import Link, at, names, opened

from meshlib._core.balancing.priorities import Priorities
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.commands import Close, Open
from meshlib._core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import EndpointsChanged, HostEjected, HostReturned, HostSpared, HostStateChanged
from meshlib._core.health.outlier import Outlier
from meshlib._core.host import Ejection
from meshlib._core.hosts import KNOWN, HostSet

STRICT = Priorities(balancer=RoundRobin(), overprovisioning_factor=None)


# --- membership ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "opens", "added", "removed"),
    [
        (("a", "b"), [], None, None),
        (("b", "a"), [], None, None),
        (("a", "b", "b"), [], None, None),
        (("a",), [], (), ("b",)),
        (("b", "c"), ["c"], ("c",), ("a",)),
        ((), [], (), ("a", "b")),
    ],
)
def test_an_answer_replaces_the_hosts(
    answer: tuple[str, ...], opens: list[str], added: tuple[str, ...] | None, removed: tuple[str, ...] | None
) -> None:
    """New hosts need a subchannel, the others keep theirs, and a change is one event and one version."""
    hosts, before, events = opened("a", "b")
    version = hosts.version
    assert names(hosts.replace(at(*answer), now=1.0)) == opens
    assert sorted(names(hosts)) == sorted(set(answer))
    assert [host for host in hosts if host in before] == [host for host in before if not host.removed]
    if added is None or removed is None:
        assert (list(events), hosts.version) == ([], version)
    else:
        assert list(events) == [EndpointsChanged(at=1.0, added=added, removed=removed)]
        assert hosts.version == version + 1
    assert hosts.ready == len([host for host in before if not host.removed])
    assert hosts.connections == 2


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (Endpoint(address="a", weight=3), True),
        (Endpoint(address="a", priority=1), True),
        (Endpoint(address="a", authority="x"), False),
        (Endpoint(address="a", alternatives=("[::1]:80",)), False),
    ],
)
def test_what_makes_another_host(changed: Endpoint, same: bool) -> None:
    """Address, authority and alternatives; weight and priority change the host that is there."""
    hosts, (before,), _ = opened("a")
    version = hosts.version
    hosts.replace((changed,), now=1.0)
    (now,) = hosts
    assert (now is before) == same
    assert now.endpoint == changed
    assert hosts.version > version


def test_the_best_priority_of_an_address_counts() -> None:
    """In any order, with the weight that belongs to it."""
    hosts = HostSet()
    hosts.replace(tuple(Endpoint(address="a", priority=n, weight=n + 1) for n in (2, 1, 3)), now=0.0)
    (host,) = hosts
    assert (host.endpoint.priority, host.weight) == (1, 2)


def test_a_subchannel_is_taken_once() -> None:
    """Neither a second one nor one for a removed host is needed."""
    hosts = HostSet()
    (host,) = hosts.replace(at("a"), now=0.0)
    assert hosts.seats == ()
    assert hosts.opened(host, Link("a"))
    assert not hosts.opened(host, Link("another"))
    assert hosts.seats == (host,)
    assert host.subchannel == Link("a")
    (late,) = hosts.replace(at("b"), now=1.0)
    hosts.replace(at(), now=2.0)
    assert not hosts.opened(late, Link("b"))


def test_a_removed_host_is_drained_once() -> None:
    """After its last call; it is no longer connected then."""
    hosts, (host,), _ = opened("a")
    host.in_flight = 1
    hosts.replace((), now=1.0)
    assert (hosts.drained(), hosts.connections, hosts.disconnected) == ([], 1, 0)
    host.in_flight = 0
    assert hosts.drained() == [host]
    assert hosts.drained() == []
    assert (hosts.connections, hosts.disconnected) == (0, 1)


def test_a_host_that_returns_before_it_is_drained_is_the_same() -> None:
    """With its connection, and it is not drained."""
    hosts, (host,), _ = opened("a")
    hosts.replace((), now=1.0)
    assert hosts.replace(at("a"), now=2.0) == []
    assert list(hosts) == [host]
    assert (hosts.ready, host.removed, hosts.drained()) == (1, False, [])


# --- states --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "ready", "connected", "not_connected", "disconnected", "lost"),
    [
        ([READY], 1, 1, 0, 0, False),
        ([READY, READY], 1, 1, 0, 0, False),
        ([READY, IDLE], 0, 1, 0, 1, True),
        ([READY, IDLE, READY], 1, 2, 0, 1, True),
        ([TRANSIENT_FAILURE], 0, 0, 1, 0, True),
        ([TRANSIENT_FAILURE, CONNECTING, TRANSIENT_FAILURE], 0, 0, 2, 0, True),
        ([IDLE], 0, 0, 0, 0, False),
    ],
)
def test_connections_are_counted(
    states: list[int], ready: int, connected: int, not_connected: int, disconnected: int, lost: bool
) -> None:
    """Each connection that was made, failed or ended counts once; a state that was known counts nothing."""
    hosts, (host,), _ = opened("a", state=CONNECTING)
    for second, state in enumerate(states):
        hosts.set_state(host, state, now=float(second))
    assert (hosts.ready, hosts.connected, hosts.not_connected) == (ready, connected, not_connected)
    assert (hosts.disconnected, hosts.lost) == (disconnected, lost)


def test_a_change_of_state_is_an_event() -> None:
    """Except the state of a removed host, and a state equal to the previous one."""
    hosts, (host,), events = opened("a")
    hosts.set_state(host, READY, now=1.0)
    hosts.set_state(host, IDLE, now=2.0)
    hosts.replace((), now=3.0)
    hosts.set_state(host, READY, now=4.0)
    assert list(events) == [
        HostStateChanged(at=2.0, address="a", before="READY", after="IDLE"),
        EndpointsChanged(at=3.0, added=(), removed=("a",)),
    ]
    assert hosts.ready == 0


@pytest.mark.parametrize(("seconds", "lost"), [(KNOWN / 2, False), (KNOWN * 2, True)])
def test_a_loss_that_attempts_have_shown_is_one_lookup(seconds: float, lost: bool) -> None:
    """A poll that finds it a moment later requests no second re-resolution."""
    hosts, (host,), _ = opened("a")
    host.lost_at = 10.0
    hosts.set_state(host, TRANSIENT_FAILURE, now=10.0 + seconds)
    assert hosts.lost == lost


def test_a_state_read_before_a_change_is_stale() -> None:
    """A poll in another thread may return after the host has changed."""
    hosts, (a, b), _ = opened("a", "b")
    looks = [(host, host.stamp, IDLE) for host in (a, b)]
    hosts.set_state(a, TRANSIENT_FAILURE, now=1.0)
    hosts.seen(looks, now=2.0)
    assert (a.state, b.state) == (TRANSIENT_FAILURE, IDLE)


def test_outliers_leave_the_picker_and_return() -> None:
    """Each is an event; one that is spared changes no picker."""
    hosts, (host,), events = opened("a")
    version = hosts.version
    hosts.judged([Outlier(host, "consecutive_5xx", "5 errors", "too many are ejected")], now=1.0)
    assert hosts.version == version
    host.ejection = Ejection("5 errors", until=31.0)
    hosts.judged([Outlier(host, "consecutive_5xx", "5 errors", "")], now=1.0, alone=True)
    assert hosts.version == version + 1
    host.ejection = None
    hosts.returned([host], now=31.0)
    assert hosts.version == version + 2
    assert list(events) == [
        HostSpared(at=1.0, address="a", why="5 errors", spared="too many are ejected"),
        HostEjected(at=1.0, address="a", why="5 errors", seconds=30.0, alone=True),
        HostReturned(at=31.0, address="a", alone=False),
    ]


# --- redialling, the end, repair -----------------------------------------------------


def test_a_failing_host_is_redialled() -> None:
    """The new subchannel is opened before the old one is closed, and each loss is redialled once."""
    hosts, (host, _), _ = opened("a", "b")
    assert not hosts.redial()
    hosts.set_state(host, IDLE, now=1.0)
    assert hosts.redial()
    first, second = hosts.redialling
    assert isinstance(first, Open)
    assert isinstance(second, Close)
    assert (first.host, second.subchannel) == (host, Link("a"))
    assert (host.state, host.subchannel, host.dials, names(hosts.seats)) == (CONNECTING, None, 1, ["b"])
    assert hosts.opened(host, Link("a, again"))
    assert not hosts.redial()


def test_a_failing_host_with_calls_is_not_redialled() -> None:
    """Its calls would be cancelled with its subchannel."""
    hosts, (host,), _ = opened("a")
    hosts.set_state(host, IDLE, now=1.0)
    host.in_flight = 1
    assert not hosts.redial()
    assert (hosts.redialling, host.subchannel, host.dials) == ([], Link("a"), 0)


def test_all_connections_are_closed_once() -> None:
    """Those of hosts in use, of draining ones, and the replaced ones of redialled hosts."""
    hosts, (a, b, _), _ = opened("a", "b", "c")
    hosts.set_state(a, IDLE, now=1.0)
    hosts.redial()
    b.in_flight = 1
    hosts.replace(at("a", "c"), now=2.0)
    assert sorted(close.host.endpoint.address for close in hosts.clear()) == ["a", "b", "c"]
    assert hosts.clear() == []
    assert (len(hosts), hosts.seats, hosts.ready, hosts.connections, hosts.redialling) == (0, (), 0, 0, [])
    assert hosts.drained() == []


def test_a_step_that_was_interrupted_is_repaired() -> None:
    """A host on both sides stays, the count restarts, and a host without a subchannel gets one."""
    hosts, (a, b), _ = opened("a", "b")
    hosts.replace(at("a", "b", "c"), now=1.0)
    hosts._leave(("a", None, ()), a)  # as far as an interrupted step came
    hosts.ready = 7
    assert [command.host.endpoint.address for command in hosts.mend()] == ["c"]
    assert (a.removed, hosts.ready, hosts.seats) == (False, 2, (a, b))
    assert hosts.drained() == []


# --- queries -------------------------------------------------------------------------


def test_a_better_priority_is_worth_the_wait_at_first() -> None:
    """As long as it may connect, and no picker was built yet."""
    hosts, (a, b), _ = opened("a", Endpoint(address="b", priority=1), state=CONNECTING)
    hosts.set_state(b, READY, now=1.0)
    assert hosts.tiers(STRICT, first=True) == ()
    assert [names(tier.hosts) for tier in hosts.tiers(STRICT, first=False)] == [["b"]]
    hosts.set_state(a, TRANSIENT_FAILURE, now=2.0)
    assert [names(tier.hosts) for tier in hosts.tiers(STRICT, first=True)] == [["b"]]


@pytest.mark.parametrize(
    ("state", "ejected", "with_ejected", "without"),
    [
        (READY, False, True, True),
        (READY, True, True, False),
        (CONNECTING, False, True, True),
        (CONNECTING, True, True, False),
        (TRANSIENT_FAILURE, False, False, False),
    ],
)
def test_reachable(state: int, ejected: bool, with_ejected: bool, without: bool) -> None:
    """A host that is ready or may become so; an ejected one only if asked for."""
    hosts, (host,), _ = opened("a", state=state)
    host.ejection = Ejection("5 errors", until=math.inf) if ejected else None
    assert hosts.reachable(ejected=True) == with_ejected
    assert hosts.reachable(ejected=False) == without


def test_failing_hosts_take_turns() -> None:
    """Those of the best priority, untried ones first; ejected ones never."""
    hosts, (a, b, c, _), _ = opened("a", "b", "c", Endpoint(address="d", priority=1), state=TRANSIENT_FAILURE)
    c.ejection = Ejection("5 errors", until=math.inf)
    turns = [hosts.failing(()) for _ in range(4)]
    assert {turns[0], turns[1]} == {a, b}
    assert turns[2:] == turns[:2]
    assert [hosts.failing([a]) for _ in range(3)] == [b] * 3
    assert hosts.failing([a, b]) in (a, b)
    assert HostSet().failing(()) is None


def test_hosts_in_words() -> None:
    """Counts for details, addresses of the first three for texts."""
    hosts, (a, b, *_), _ = opened("a", "b", "c", "d", "e")
    a.ejection = Ejection("5 errors", until=31.0)
    hosts.set_state(b, TRANSIENT_FAILURE, now=1.0)
    assert hosts.count() == "3 READY, 1 TRANSIENT_FAILURE, 1 ejected"
    assert hosts.describe() == "a ejected, b TRANSIENT_FAILURE, c READY and 2 more"
    assert (HostSet().count(), HostSet().describe()) == ("", "")
    first, second, *_ = hosts.snapshot(now=11.0)
    assert (first.ejected_until, first.ejected_for, first.state) == (20.0, "5 errors", "READY")
    assert (second.ejected_until, second.state_since, second.state) == (None, 10.0, "TRANSIENT_FAILURE")
