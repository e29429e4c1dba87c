"""Hosts that cannot be connected: when their reason is queried."""

import math

from meshlib._core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.health.unreachable import AT_ONCE, PATIENCE, PAUSE, UnreachableHosts
from meshlib._core.host import HostEntry


class _Subchannel:
    def state(self, connect: bool) -> int:
        return TRANSIENT_FAILURE

    def glance(self) -> int | None:
        return TRANSIENT_FAILURE


def failing(name: str = "10.0.0.7:1") -> HostEntry:
    """A host that cannot be connected."""
    host = HostEntry(Endpoint(address=name))
    host.subchannel = _Subchannel()
    host.state = TRANSIENT_FAILURE
    return host


def test_a_host_is_asked_once_when_it_has_failed_for_a_while() -> None:
    """A host that restarts is not queried."""
    hosts, host = UnreachableHosts(), failing()
    assert hosts.at == math.inf
    hosts.changed(host, now=5.0)
    assert hosts.at == 5.0 + PATIENCE
    assert hosts.due(now=5.0 + PATIENCE / 2) == []
    assert hosts.due(now=5.0 + PATIENCE) == [host]
    assert hosts.at == math.inf
    assert hosts.due(now=9.0) == []


def test_a_host_that_comes_back_is_not_asked() -> None:
    """A removed host, or one without a subchannel, is not queried either."""
    hosts, back, left, none = UnreachableHosts(), failing("a"), failing("b"), failing("c")
    for host in (back, left, none):
        hosts.changed(host, now=5.0)
    back.state = READY
    hosts.changed(back, now=5.5)
    left.removed = True
    none.subchannel = None
    assert hosts.due(now=9.0) == []
    back.state = CONNECTING
    hosts.changed(back, now=9.5)
    assert hosts.at == math.inf


def test_few_are_asked_at_once() -> None:
    """A thousand hosts that fail at once are queried one after the other."""
    hosts = UnreachableHosts()
    every = [failing(f"h{n}") for n in range(3 * AT_ONCE)]
    for host in every:
        hosts.changed(host, now=0.0)
    asked: list[HostEntry] = []
    now = PATIENCE
    while hosts.at < math.inf:
        due = hosts.due(now=now)
        assert len(due) <= AT_ONCE
        asked += due
        now = max(now, hosts.at)
    assert asked == every


def test_the_log_says_so_once_in_a_while() -> None:
    """The limit is shared by all hosts."""
    hosts = UnreachableHosts()
    assert [hosts.worth_a_line(now=at) for at in (5.0, 6.0, 5.0 + PAUSE, 6.0 + PAUSE)] == [True, False, True, False]
