"""``HostSet`` under any order of answers, subchannels, states and calls."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.core.host_sets import Link, at, names

from meshlib._core.commands import Close
from meshlib._core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from meshlib._core.host import HostEntry
from meshlib._core.hosts import HostSet

ADDRESSES = st.sampled_from("abc")


class HostSetMachine(RuleBasedStateMachine):
    """Answers, subchannels, states and calls in any order, beside plain sets and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts = HostSet()
        self.every: list[HostEntry] = []
        self.links = 0
        self.closed: list[object] = []
        self.now = 0.0

    @rule(addresses=st.frozensets(ADDRESSES))
    def resolve(self, addresses: frozenset[str]) -> None:
        self.every += [
            host for host in self.hosts.replace(at(*sorted(addresses)), now=self.now) if host not in self.every
        ]
        assert set(names(self.hosts)) == addresses

    @rule()
    def open(self) -> None:
        for host in self.every:
            self.links += self.hosts.opened(host, Link(f"{host.endpoint.address} {self.links}"))

    @rule(n=st.integers(0, 9), state=st.sampled_from([IDLE, CONNECTING, READY, TRANSIENT_FAILURE]))
    def change(self, n: int, state: int) -> None:
        live = [host for host in self.every if host.subchannel is not None and host.subchannel not in self.closed]
        if live:
            self.now += 1.0
            self.hosts.set_state(live[n % len(live)], state, now=self.now)

    @rule(n=st.integers(0, 9), by=st.sampled_from([1, -1]))
    def call(self, n: int, by: int) -> None:
        if self.every:
            host = self.every[n % len(self.every)]
            host.in_flight = max(0, host.in_flight + by)

    @rule()
    def drain(self) -> None:
        for host in self.hosts.drained():
            assert host.removed
            assert host.in_flight == 0
            self.closed.append(host.subchannel)

    @rule()
    def redial(self) -> None:
        self.hosts.redial()
        commands, self.hosts.redialling = self.hosts.redialling, []
        self.closed += [command.subchannel for command in commands if isinstance(command, Close)]

    @rule()
    def mend(self) -> None:
        before = (list(self.hosts), self.hosts.ready, self.hosts.seats)
        self.hosts.mend()
        assert (list(self.hosts), self.hosts.ready, self.hosts.seats) == before

    @invariant()
    def check(self) -> None:
        hosts = list(self.hosts)
        assert self.hosts.ready == sum(host.state == READY for host in hosts)
        assert self.hosts.seats == tuple(host for host in hosts if host.subchannel is not None)
        assert not any(host.removed for host in hosts)
        assert len(self.closed) == len(set(self.closed))
        assert not any(host.subchannel in self.closed for host in hosts)

    def teardown(self) -> None:
        self.closed += [close.subchannel for close in self.hosts.clear()]
        assert len(self.closed) == len(set(self.closed)) == self.links


TestHostSet = HostSetMachine.TestCase
