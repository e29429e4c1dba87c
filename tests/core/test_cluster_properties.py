"""The machine of a service under any order of inputs from resolvers, connections, calls and the control plane."""

from collections import Counter
from random import Random

from hypothesis import settings
from hypothesis.stateful import invariant
from tests.core.channels import Moves, walk
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
from tests.core.cluster_rules import ClusterRules
from tests.core.scripted import UNAVAILABLE

from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import State
from meshlib._core.connectivity import NAMES, READY
from meshlib._core.endpoint import Endpoint


class ClusterMachine(ClusterRules):
    """One channel whose invariants are checked after each step."""

    @invariant()
    def check(self) -> None:
        self.in_flight_is_what_has_no_outcome()
        self.ready_is_the_count_of_ready_hosts()
        self.places_are_those_of_retries()
        self.finished_once()
        self.no_link_is_closed_twice_or_in_use()
        self.who_waits_is_registered_or_woken()
        self.the_breaker_holds()
        self.dialled_anew_once_a_loss()

    def the_breaker_holds(self) -> None:
        assert self.cluster.in_flight <= self.breaker.max_requests
        assert self.breaker.max_retries is None or self.cluster.budget.held <= self.breaker.max_retries

    def dialled_anew_once_a_loss(self) -> None:
        """Only with nothing in flight, and after it had been connected."""
        for host in self.cluster.hosts:
            dials, link = self.dials.get(host, (0, None))
            if host.dials != dials:
                assert host.dials == dials + 1
                assert host.in_flight == 0
                assert link in self.connected
            if host.dials != dials or host.subchannel is not None:
                self.dials[host] = (host.dials, host.subchannel)

    def in_flight_is_what_has_no_outcome(self) -> None:
        by_host = Counter(attempt.host for attempt in self.flying.values())
        assert self.cluster.in_flight == len(self.flying)
        for host in {*self.hosts, *self.cluster.hosts}:
            assert host.in_flight == by_host[host]

    def ready_is_the_count_of_ready_hosts(self) -> None:
        assert self.cluster.ready == sum(host.state == READY for host in self.cluster.hosts)

    def places_are_those_of_retries(self) -> None:
        assert self.cluster.budget.held == sum(attempt.holds for call in self.calls for attempt in call.attempts)

    def finished_once(self) -> None:
        for call in self.calls:
            assert self.finishes[call] == (call.state is State.DONE)

    def no_link_is_closed_twice_or_in_use(self) -> None:
        for link in self.channel.every_link:
            assert link.closed <= 1
            # A replaced link was closed for a new dial; the host is still in use.
            if link.closed and not self.cluster.closed and link.host.subchannel is link:
                assert link.host.removed
                assert link.host.in_flight == 0

    def who_waits_is_registered_or_woken(self) -> None:
        wakes = {call for command in self.channel.pending for call in getattr(command, "calls", ())}
        for call in self.waiting():
            assert call in self.cluster._pending.calls or call.woken or call in wakes
        for call in self.cluster._pending.calls:
            assert call.state is State.WAITING
        for call in self.cluster._pending.resting:
            assert call.state is State.BACKOFF

    def teardown(self) -> None:
        """Every waiting call gets the close, every outcome is reported, and nothing remains."""
        if not hasattr(self, "channel"):
            return
        self.channel.close(now=self.now)
        self.channel.perform(now=self.now)
        for call in self.calls:
            if call.state in {State.WAITING, State.BACKOFF}:
                assert call.woken
        self.serve()
        for number, n in sorted(self.flying):
            del self.flying[number, n]
            call = self.calls[number]
            self.perform(call, call.on_outcome(n, UNAVAILABLE, now=self.now))
        assert self.cluster.in_flight == 0
        assert self.cluster.budget.held == 0
        assert all(self.finishes[call] == 1 for call in self.calls)
        assert [link.closed for link in self.channel.every_link] == [1] * len(self.channel.every_link)
        assert self.channel.states[-1:] == [NAMES.index("SHUTDOWN")]
        assert self.channel.states.count(NAMES.index("SHUTDOWN")) == 1


MOVES: Moves = {
    "begin": (
        8,
        lambda rng: (
            rng.choice(POLICY_LIST),
            rng.random() < 0.3,
            rng.random() < 0.5,
            rng.choice([None, None, None, 0.05, 2.0]),
        ),
    ),
    "end_attempt": (12, lambda rng: (rng.randrange(16), rng.choice(OUTCOME_LIST))),
    "serve_timers": (8, lambda _: ()),
    "serve": (4, lambda _: ()),
    "step": (8, lambda rng: (rng.choice([0.0, 0.0005, 0.03, 0.1, 0.6]),)),
    "perform_some": (6, lambda rng: (rng.randint(1, 4),)),
    "connect": (5, lambda rng: (rng.randrange(4), rng.random() < 0.5)),
    "change": (3, lambda rng: (rng.randrange(4), rng.choice(STATES), rng.random() < 0.5)),
    "resolve": (
        2,
        lambda rng: (
            [
                Endpoint(address=rng.choice(ADDRESSES), priority=rng.choice([0, 0, 1]), weight=rng.randint(1, 3))
                for _ in range(rng.randint(0, 6))
            ],
        ),
    ),
    "lose_host": (2, lambda rng: (rng.randrange(16),)),
    "read": (1, lambda rng: (rng.randrange(16), rng.random() < 0.1)),
    "commit": (1, lambda rng: (rng.randrange(16), True)),
    "cancel": (1, lambda rng: (rng.randrange(8), True)),
    "settle": (2, lambda _: ()),
    "fail_to_resolve": (1, lambda _: (True,)),
    "make_unopenable": (1, lambda rng: (rng.choice(ADDRESSES), True)),
}


def test_long_stories(rng: Random) -> None:
    """A hundred channels, each with two hundred random steps."""
    for _ in range(100):
        machine = ClusterMachine()
        machine.open(
            balancer=rng.choice([RoundRobin(), RoundRobin(), LeastRequest(), Full(), Broken()]),
            least=rng.randrange(3),
            late=rng.random() < 0.5,
            ready=rng.choice(["", "ab", "abc"]),
            seed=rng.getrandbits(32),
            outliers=rng.choice(OUTLIERS),
            breaker=rng.choice(BREAKERS),
            throttling=rng.choice(THROTTLING),
            factor=rng.choice([None, None, 1.0, 1.4]),
            threshold=rng.choice([0, 50, 100]),
        )
        walk(machine, MOVES, steps=200, rng=rng)


ClusterMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestCluster = ClusterMachine.TestCase
