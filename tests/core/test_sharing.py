"""Subchannels that share a connection: all of one key, except with a failing one."""

import pytest

from meshlib._core.connectivity import CONNECTING, IDLE, READY, SHUTDOWN, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.host import HostEntry
from meshlib._core.sharing import FEW, Sharing

KEY = "ipv4:10.0.0.7:1"


class _Subchannel:
    """A connection in a state set by the test."""

    def __init__(self, state: int | None) -> None:
        self.now = state

    def state(self, connect: bool) -> int:
        raise AssertionError("it may have to wait for another thread")

    def glance(self) -> int | None:
        return self.now


def host(state: int | None = READY, *, known: int | None = None, failing: bool = False) -> HostEntry:
    """A host whose connection is in ``state``, last seen in the state ``known``."""
    made = HostEntry(Endpoint(address="10.0.0.7:1"))
    made.subchannel = _Subchannel(state)
    made.state = (state or 0) if known is None else known
    made.failing = failing
    return made


@pytest.mark.parametrize(
    ("first", "shared"),
    [
        (host(READY), True),
        (host(CONNECTING), True),
        (host(None, known=READY), True),
        (host(IDLE, known=CONNECTING), True),
        (host(SHUTDOWN, known=READY), True),
        (host(TRANSIENT_FAILURE), False),
        (host(TRANSIENT_FAILURE, known=READY), False),
        (host(CONNECTING, known=READY), False),
        (host(IDLE, known=READY), False),
        (host(CONNECTING, failing=True), False),
    ],
    ids=lambda value: repr(value) if isinstance(value, HostEntry) else None,
)
def test_a_connection_is_shared_unless_it_was_lost_or_could_not_be_made(first: HostEntry, shared: bool) -> None:
    """One that was never connected is being dialled already, as fast as another would be."""
    sharing = Sharing()
    assert sharing.number(KEY, first) == 0
    second = host()
    number = sharing.number(KEY, second)
    assert (number == 0) is shared
    assert sharing.number(KEY, host()) == number


def test_keys_have_nothing_to_do_with_one_another() -> None:
    """A failing connection to one address does not affect another."""
    sharing = Sharing()
    failing, other = host(TRANSIENT_FAILURE), host()
    assert [sharing.number("a", failing), sharing.number("b", other)] == [0, 0]


def test_a_host_that_is_dialled_anew_gets_another_number() -> None:
    """Its last subchannel failed and was replaced."""
    sharing = Sharing()
    redialled = host(TRANSIENT_FAILURE, failing=True)
    sharing.number(KEY, redialled)
    redialled.subchannel = None
    assert sharing.number(KEY, redialled) == 1


def test_hosts_out_of_use_are_not_asked() -> None:
    """The connection of a closed channel is gone, in any state."""
    sharing = Sharing()
    gone, closed = host(TRANSIENT_FAILURE), host(TRANSIENT_FAILURE)
    sharing.number(KEY, gone)
    del gone
    sharing.number(KEY, closed)
    closed.removed = True
    assert sharing.number(KEY, host()) == 0


def test_a_forked_child_shares_nothing_with_its_ancestors() -> None:
    """A child's copies of its ancestors' connections are dead."""
    parent = Sharing()
    child = parent.child()
    grandchild = child.child()
    numbers = [sharing.number(KEY, host()) for sharing in (parent, child, grandchild)]
    assert numbers == [0, 1, 2]
    failing = host(TRANSIENT_FAILURE)
    child.number("other", failing)
    assert child.number("other", host()) > 2


def test_what_is_out_of_use_is_forgotten_and_its_number_never_used_again() -> None:
    """A process that uses ever new addresses keeps few; connections of old ones may still be failing."""
    sharing = Sharing()
    numbers = set()
    for n in range(10 * FEW):
        brief = host()
        numbers.add(sharing.number(n, brief))
    assert len(sharing._sharers) <= 2 * FEW
    assert len(numbers) > 1
    kept = host()
    for _ in range(10 * FEW):
        sharing.number(KEY, kept)
        sharing.number(KEY, host())
    assert sharing.number(KEY, host()) == sharing.number(KEY, kept)
