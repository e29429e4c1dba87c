"""The rules of a state machine: one channel, up to eight calls, and a slow control plane."""

import math
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.core.channels import Channel
from tests.core.cluster_inputs import (
    ADDRESSES,
    BREAKERS,
    OUTCOME_LIST,
    OUTLIERS,
    POLICY_LIST,
    STATES,
    THROTTLING,
    Broken,
    Full,
)
from tests.core.scripted import CANCELLED, UNAVAILABLE

from meshlib._core.attempt import AttemptRecord
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.priorities import Priorities, loads
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import Call, CallCommands, State
from meshlib._core.commands import CancelAttempt, Finish, StartAttempt
from meshlib._core.connectivity import IDLE, READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import PanicChanged
from meshlib._core.host import HostEntry
from meshlib._core.policy import (
    CircuitBreaker,
    OutlierDetection,
    RetryBudget,
    RetryThrottling,
)
from meshlib._core.status import Outcome

SELDOM = st.sampled_from([False] * 9 + [True])
ENDPOINTS = st.lists(
    st.builds(
        Endpoint, address=st.sampled_from(ADDRESSES), priority=st.sampled_from([0, 0, 1]), weight=st.integers(1, 3)
    ),
    max_size=5,
)


class ClusterRules(RuleBasedStateMachine):
    """One channel, up to eight calls, and a slow control plane."""

    @initialize(
        balancer=st.sampled_from([RoundRobin(), LeastRequest(), Full(), Broken()]),
        least=st.integers(0, 2),
        late=st.booleans(),
        ready=st.sampled_from(["", "a", "ab", "abc", "abcd"]),
        seed=st.integers(0, 2**32),
        outliers=st.sampled_from(OUTLIERS),
        breaker=st.sampled_from(BREAKERS),
        throttling=st.sampled_from(THROTTLING),
        factor=st.sampled_from([None, None, 1.0, 1.4]),
        threshold=st.sampled_from([0, 50, 100]),
    )
    def open(
        self,
        balancer: Any,
        least: int,
        late: bool,
        ready: str,
        seed: int,
        outliers: OutlierDetection | None,
        breaker: CircuitBreaker | None,
        throttling: RetryThrottling | None,
        factor: float | None,
        threshold: float,
    ) -> None:
        self.priorities = Priorities(
            balancer=balancer, overprovisioning_factor=factor, healthy_panic_threshold=threshold
        )
        self.breaker = breaker or CircuitBreaker(max_requests=1000)
        self.channel = Channel(
            self.priorities,
            budget=RetryBudget(budget_percent=50.0, min_retry_concurrency=least),
            outlier_detection=outliers,
            circuit_breaker=breaker,
            throttling=throttling,
            seed=seed,
            defer=True,
        )
        self.cluster = self.channel.cluster
        self.now = 0.0
        self.calls: list[Call] = []
        self.flying: dict[tuple[int, int], AttemptRecord] = {}
        self.finishes: Counter[Call] = Counter()
        self.hosts: list[HostEntry] = []
        self.dials: dict[HostEntry, tuple[int, object]] = {}
        """How often a host was dialled again, and its connection at that time."""
        self.connected: set[object] = set()
        """Links that were ready at some time."""
        self.late = late
        self.picks_always = not isinstance(balancer, Full)
        if ready:
            self.channel.resolve(*ready, now=0.0)
            self.channel.perform(now=0.0)
            for which in range(len(ready)):
                self.connect(which, seen=True)
            self.channel.perform(now=0.0)

    # The resolver and the connections.

    @rule(endpoints=ENDPOINTS)
    def resolve(self, endpoints: list[Endpoint]) -> None:
        self.channel.resolve(*endpoints, now=self.now)
        self.be_prompt()

    @rule(really=SELDOM)
    def fail_to_resolve(self, really: bool) -> None:
        if really:
            self.channel.fail("SERVFAIL", now=self.now)
            self.be_prompt()

    @rule(which=st.integers(0, 3), state=st.sampled_from(STATES), seen=st.booleans())
    def change(self, which: int, state: int, seen: bool) -> None:
        if self.channel.links:
            address = sorted(self.channel.links)[which % len(self.channel.links)]
            link = self.channel.links[address]
            # A link that was replaced reports nothing.
            self.channel.put(address, state, now=self.now, seen=seen and link.host.subchannel is link)
            if state == READY:
                self.connected.add(link)
            self.be_prompt()

    @rule(which=st.integers(0, 3), seen=st.booleans())
    def connect(self, which: int, seen: bool) -> None:
        self.change(which, READY, seen)

    def be_prompt(self) -> None:
        if not self.late:
            self.channel.perform(now=self.now)
            self.serve()

    @rule(address=st.sampled_from(ADDRESSES), really=SELDOM)
    def make_unopenable(self, address: str, really: bool) -> None:
        if really:
            self.channel.unopenable ^= {address}

    # The control plane.

    @rule(most=st.integers(1, 4))
    def perform_some(self, most: int) -> None:
        self.channel.perform(now=self.now, most=most)

    @rule(seconds=st.sampled_from([0.0, 0.0005, 0.03, 0.1, 0.6]))
    def step(self, seconds: float) -> None:
        self.now += seconds
        self.channel.step(now=self.now)
        self.be_prompt()

    @rule()
    def settle(self) -> None:
        """Let the control plane and the shells do all work due now."""
        if self.cluster._poll.at < math.inf:
            # Poll all connections: an earlier sweep of outlier detection polls none.
            self.now = max(self.now, self.cluster._poll.at)
        asked = -1
        for _ in range(200):
            self.now = max(self.now, self.cluster.next_timer() or self.now)
            self.channel.step(now=self.now)
            self.channel.perform(now=self.now)
            self.serve()
            attention, asked = asked, self.channel.asked_for_attention
            if not self.channel.pending and not any(call.woken for call in self.waiting()) and attention == asked:
                break
        else:
            raise AssertionError("the channel does not come to rest")
        for call in self.waiting():
            # No call waits for an available host.
            self.perform(call, call.on_endpoints(now=self.now))
            # Of several tiers a balancer may have picked a full one; another pick may draw another.
            alike = self.picks_always or len({host.endpoint.priority for host in self.cluster.hosts}) == 1
            assert call.state is not State.FLYING or not alike, f"{call.tried} was available, and no wake came"
        if not self.cluster.closed:
            self.nobody_waits_in_vain()
            self.panic_is_where_ejected_hosts_are_used()

    def nobody_waits_in_vain(self) -> None:
        """A usable host ends every wait; if none can come up, only wait-for-ready calls wait on."""
        cluster, last_resort = self.cluster, self.priorities.healthy_panic_threshold > 0
        used = [host for host in cluster.hosts if host.ejection is None or last_resort]
        # At the start calls wait for a better priority that has not failed yet.
        started = cluster._builder.previous is not None or len({host.endpoint.priority for host in cluster.hosts}) == 1
        if self.picks_always and started and any(host.state == READY for host in used):
            assert not self.waiting()
        if cluster.resolved and all(host.state == TRANSIENT_FAILURE for host in used):
            assert all(call.wait_for_ready for call in self.waiting())

    def panic_is_where_ejected_hosts_are_used(self) -> None:
        """Panic is reported exactly then; otherwise no ejected host is picked."""
        cluster, priorities = self.cluster, self.priorities
        if cluster.hosts.version != cluster._builder.version:
            return  # a call has just found a lost host
        ranks = sorted({host.endpoint.priority for host in cluster.hosts})
        counts, out = [], []
        for rank in ranks:
            tier = [host for host in cluster.hosts if host.endpoint.priority == rank]
            here = [host for host in tier if host.state == READY]
            healthy = [host for host in here if host.ejection is None]
            # Connecting hosts count as well, once a ready one exists.
            sound = [host for host in tier if host.ejection is None and (host in healthy or not host.failing)]
            counts.append((len(sound) if healthy else 0, len(tier)) if here else (0, 0))
            out.append(len(here) > len(healthy))
        shares = loads(counts, factor=priorities.overprovisioning_factor, threshold=priorities.healthy_panic_threshold)
        panic = [
            rank for rank, load, some in zip(ranks, shares, out, strict=True) if load.percent and load.panic and some
        ]
        if cluster._picker is not None:  # else there is nothing new to report
            assert list(cluster.panic) == panic
        told = self.channel.ear.heard(PanicChanged)
        assert (told[-1].priorities if told else ()) == cluster.panic
        picked = set()
        for _ in range(8):
            host = cluster.pick(self.channel.call(), now=self.now, wait=False)
            if isinstance(host, HostEntry):
                host.in_flight -= 1
                cluster.in_flight -= 1
                assert host.ejection is None or host.endpoint.priority in cluster.panic
                picked.add(host)
        if cluster._picker is None:
            return  # the panic is the previous one, and the picked attempt fails with the true reason
        if picked and cluster.panic and len(ranks) == 1 and type(priorities.balancer) is RoundRobin and not self.breaks:
            assert any(host.ejection is not None for host in picked)

    # The calls.

    @rule(
        policy=st.sampled_from(POLICY_LIST),
        wait_for_ready=st.booleans(),
        streaming=st.booleans(),
        timeout=st.sampled_from([None, None, 0.05, 2.0]),
    )
    def begin(self, policy: Any, wait_for_ready: bool, streaming: bool, timeout: float | None) -> None:
        if len(self.waiting()) > 8:
            return
        deadline = None if timeout is None else self.now + timeout
        call = self.channel.call(policy, wait_for_ready=wait_for_ready, streaming=streaming, deadline=deadline)
        self.calls.append(call)
        self.perform(call, call.begin(now=self.now))

    @rule(which=st.integers(0, 15), outcome=st.sampled_from(OUTCOME_LIST))
    def end_attempt(self, which: int, outcome: Outcome) -> None:
        if self.flying:
            key = sorted(self.flying)[which % len(self.flying)]
            call, attempt = self.calls[key[0]], self.flying.pop(key)
            self.perform(call, call.on_outcome(attempt.n, outcome, now=self.now))

    @rule(which=st.integers(0, 15))
    def lose_host(self, which: int) -> None:
        """A host dies with all its calls."""
        if self.flying:
            host = self.flying[sorted(self.flying)[which % len(self.flying)]].host
            self.channel.links[host.endpoint.address].is_now = IDLE
            for key in [key for key, attempt in self.flying.items() if attempt.host is host]:
                self.flying.pop(key)
                self.perform(self.calls[key[0]], self.calls[key[0]].on_outcome(key[1], UNAVAILABLE, now=self.now))

    @rule(which=st.integers(0, 15), really=SELDOM)
    def commit(self, which: int, really: bool) -> None:
        if really and self.flying:
            number, n = sorted(self.flying)[which % len(self.flying)]
            call = self.calls[number]
            self.perform(call, call.on_commit(n, "message", now=self.now))

    @rule(which=st.integers(0, 15), received=SELDOM)
    def read(self, which: int, received: bool) -> None:
        if self.flying:
            number, n = sorted(self.flying)[which % len(self.flying)]
            if received:
                self.perform(self.calls[number], self.calls[number].on_commit(n, "message", now=self.now))
                self.calls[number].on_message()
            else:
                self.calls[number].on_reading(now=self.now)

    @rule(which=st.integers(0, 7), really=SELDOM)
    def cancel(self, which: int, really: bool) -> None:
        if really and self.calls:
            call = self.calls[which % len(self.calls)]
            self.perform(call, call.on_cancel(CANCELLED, now=self.now))

    @rule()
    def serve_timers(self) -> None:
        for call in self.calls:
            self.perform(call, call.on_timer(now=self.now))

    @rule()
    def serve(self) -> None:
        """Do the work of shells for woken calls."""
        for call in self.calls:
            if call.woken:
                self.perform(call, call.on_endpoints(now=self.now))

    @rule(really=SELDOM)
    def close(self, really: bool) -> None:
        if really:
            self.channel.close(now=self.now)
            self.be_prompt()

    def perform(self, call: Call, commands: CallCommands) -> None:
        number = self.calls.index(call)
        for command in commands:
            if isinstance(command, StartAttempt):
                attempt = command.record
                assert not self.finishes[call]
                assert attempt.host.subchannel is not None
                if attempt.host.ejection is not None:
                    assert self.cluster.panic
                    assert self.cluster._picker is not None
                    assert attempt.host in self.cluster._picker._forced
                self.flying[number, attempt.n] = attempt
                if attempt.host not in self.hosts:
                    self.hosts.append(attempt.host)
            elif isinstance(command, Finish):
                self.finishes[call] += 1
            else:
                assert isinstance(command, CancelAttempt)
                assert (number, command.n) in self.flying

    def waiting(self) -> list[Call]:
        return [call for call in self.calls if call.state is State.WAITING]

    @property
    def breaks(self) -> bool:
        """Whether the breaker would reject another attempt."""
        return self.cluster.in_flight >= self.breaker.max_requests
