"""No order of calls and host events exceeds the circuit breaker's limits, and no host is charged for a rejection.

Counted independently: attempts sent and not ended, calls registered to be woken, shares of retries.
"""

from collections import Counter
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.channels import Channel, Moves, walk
from tests.core.scripted import CANCELLED, REFUSED, UNAVAILABLE, Ear, assert_path

from meshlib._core.attempt import AttemptRecord
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.call import Call, CallCommands, State
from meshlib._core.commands import CancelAttempt, Finish, StartAttempt
from meshlib._core.connectivity import IDLE, READY, TRANSIENT_FAILURE
from meshlib._core.events import Broken, PickQueued, Retrying
from meshlib._core.explanation import RETRIES_FULL
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.policy import HedgingPolicy, RetryPolicy
from meshlib._core.status import OK, Outcome


class Busy:
    """A balancer that makes calls wait while every host has two."""

    def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
        class Picker:
            def pick(self, call: object, *, now: float) -> Any:
                return next((host for host in hosts if host.in_flight < 2), None)

        return Picker()


BALANCERS = [RoundRobin(), Busy(), Priorities(balancer=RoundRobin(), healthy_panic_threshold=0)]
POLICIES = [
    None,
    RetryPolicy(initial_backoff=0.2),
    RetryPolicy(max_attempts=5, per_attempt_timeout=0.5),
    HedgingPolicy(max_attempts=3, hedging_delay=0.5),
    HedgingPolicy(max_attempts=4, hedging_delay=0.0),
]
OUTCOMES = [OK, OK, *[UNAVAILABLE] * 3, REFUSED, CANCELLED, Outcome("NOT_FOUND")]
LIMITS = [0, 1, 2, 3]


class BreakerMachine(RuleBasedStateMachine):
    """A channel of three hosts, a circuit breaker that trips early, and any number of calls."""

    @initialize(
        balancer=st.sampled_from(BALANCERS),
        max_requests=st.sampled_from([1, 2, 3, 4]),
        max_pending_requests=st.sampled_from(LIMITS),
        max_retries=st.sampled_from([None, *LIMITS]),
        seed=st.integers(0, 2**32),
    )
    def open(
        self, balancer: Any, max_requests: int, max_pending_requests: int, max_retries: int | None, seed: int
    ) -> None:
        self.policy = CircuitBreaker(
            max_requests=max_requests, max_pending_requests=max_pending_requests, max_retries=max_retries
        )
        self.channel = Channel(
            balancer,
            circuit_breaker=self.policy,
            outlier_detection=OutlierDetection(consecutive_gateway_failure=3, max_ejection_percent=100),
            seed=seed,
        )
        self.cluster = self.channel.cluster
        self.breaker = self.cluster.breaker
        self.now = 0.0
        self.calls: list[Call] = []
        self.ears: list[Ear] = []
        self.flying: dict[tuple[int, int], AttemptRecord] = {}
        self.charged: Counter[str] = Counter()
        self.finishes: dict[int, Finish] = {}
        self.channel.resolve(*"abc", now=0.0)
        for address in "ab":
            self.channel.put(address, READY, now=0.0)

    # Events.

    @rule(policy=st.sampled_from(POLICIES), wait_for_ready=st.booleans(), streaming=st.booleans())
    def begin(self, policy: Any, wait_for_ready: bool, streaming: bool) -> None:
        ear = Ear()
        call = self.channel.call(policy, wait_for_ready=wait_for_ready, streaming=streaming, observer=ear)
        self.calls.append(call)
        self.ears.append(ear)
        self.feed(len(self.calls) - 1, call.begin)

    @rule(which=st.integers(0, 7), outcome=st.sampled_from(OUTCOMES))
    def end(self, which: int, outcome: Outcome) -> None:
        if self.flying:
            key = sorted(self.flying)[which % len(self.flying)]
            self.end_one(key, outcome)
            self.serve()

    def end_one(self, key: tuple[int, int], outcome: Outcome) -> None:
        attempt = self.flying.pop(key)
        told = outcome if attempt.outcome is None else attempt.outcome
        self.charged[attempt.host.endpoint.address] += told.code != "OK" and not told.local
        call = self.calls[key[0]]
        self.feed(key[0], lambda now: call.on_outcome(key[1], outcome, now=now))

    @rule(which=st.integers(0, 2), state=st.sampled_from([IDLE, READY, READY, TRANSIENT_FAILURE]))
    def connect(self, which: int, state: int) -> None:
        address = "abc"[which]
        link = self.channel.links[address]
        if link.host.subchannel is link:
            self.channel.put(address, state, now=self.now)
        self.serve()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.1, 0.5, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.channel.step(now=self.now)
        self.serve()
        for number, call in enumerate(self.calls):
            self.feed(number, call.on_timer)

    @rule(which=st.integers(0, 31))
    def cancel(self, which: int) -> None:
        if self.calls:
            call = self.calls[which % len(self.calls)]
            self.feed(which % len(self.calls), lambda now: call.on_cancel(CANCELLED, now=now))
            self.serve()

    def serve(self) -> None:
        """Run the control plane and the shells."""
        for _ in range(50):
            self.channel.step(now=self.now)
            woken = [number for number, call in enumerate(self.calls) if call.woken]
            if not woken:
                return
            for number in woken:
                self.feed(number, self.calls[number].on_endpoints)

    # Expected results of each input.

    def feed(self, number: int, step: Any) -> None:
        """Pass one input to one call, and check it against the earlier counts."""
        call = self.calls[number]
        refused, denied = self.breaker.refused, self.cluster.retries.refused
        flying, waiting = len(self.flying), self.cluster.waiting
        was_waiting = call in self.cluster._pending.calls
        others = self.holders(but=call)
        heard = len(self.ears[number].calls)
        commands: CallCommands = step(now=self.now)
        events = self.ears[number].calls[heard:]
        starts = 0
        for command in commands:
            if isinstance(command, StartAttempt):
                starts += 1
                self.flying[number, command.record.n] = command.record
            elif isinstance(command, Finish):
                assert number not in self.finishes
                self.finishes[number] = command
            else:
                assert isinstance(command, CancelAttempt)
        assert starts <= 1
        if starts:
            assert flying < self.policy.max_requests
        if any(isinstance(event, PickQueued) for event in events):
            assert waiting < self.policy.max_pending_requests
        assert self.breaker.refused - refused in (0, 1)
        if self.breaker.refused > refused:
            # Only a full limit rejects.
            assert flying == self.policy.max_requests or waiting - was_waiting >= self.policy.max_pending_requests
            assert not starts
            assert any(isinstance(event, Broken) for event in events)
        broken = [event for event in events if isinstance(event, Broken)]
        if broken:
            assert self.breaker.refused == refused + 1
            # A rejection ends the call, except that of a copy: the other copies go on.
            if call.state is State.DONE:
                self.was_refused(call, number, broken)
            else:
                assert call.plan.hedging is not None
        if call.plan.hedging is None and self.policy.max_retries is not None:
            if any(isinstance(event, Retrying) for event in events):
                assert others < self.policy.max_retries
            if call.verdict == RETRIES_FULL and commands:
                assert others == self.policy.max_retries
                assert self.cluster.retries.refused == denied + 1
                assert self.finishes[number].outcome is call.attempts[self.finishes[number].n - 1].outcome

    def was_refused(self, call: Call, number: int, broken: list[Broken]) -> None:
        """The call ends at once: with the last server's outcome, or as unsent."""
        assert len(broken) == 1
        finish = self.finishes[number]
        failures = [attempt for attempt in call.attempts if attempt.outcome is not None]
        if failures:
            assert finish.n
            assert finish.outcome is call.attempts[finish.n - 1].outcome
            assert finish.outcome.code != "OK"
        else:
            assert (finish.n, finish.outcome.code, finish.outcome.local) == (0, "UNAVAILABLE", True)
            assert not finish.outcome.sent
            assert finish.outcome.details == broken[0].why
            assert not call.attempts
        assert call.verdict == broken[0].why
        assert broken[0].why.startswith("circuit breaker open: ")
        assert call.next_timer() is None

    def holders(self, but: Call | None = None) -> int:
        return sum(attempt.holds for call in self.calls if call is not but for attempt in call.attempts)

    # Invariants.

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "channel"):
            return
        assert self.cluster.in_flight == len(self.flying) <= self.policy.max_requests
        assert self.cluster.budget.held == self.holders()
        if self.policy.max_retries is not None:
            assert self.holders() <= self.policy.max_retries
        by_host = Counter(attempt.host.endpoint.address for attempt in self.flying.values())
        for host in self.cluster.hosts:
            assert host.in_flight == by_host[host.endpoint.address]
            # A rejection is charged to no host.
            assert host.failures == self.charged[host.endpoint.address]
        for number, call in enumerate(self.calls):
            assert (number in self.finishes) == (call.state is State.DONE)

    def teardown(self) -> None:
        """With every outcome reported all limits are free, and can be used again."""
        if not hasattr(self, "channel"):
            return
        for key in sorted(self.flying):
            self.end_one(key, OK)
        for number, call in enumerate(self.calls):
            self.feed(number, lambda now, call=call: call.on_cancel(CANCELLED, now=now))
            assert_path(self.ears[number].calls)
        for key in sorted(self.flying):
            self.end_one(key, CANCELLED)
        self.check()
        assert (self.cluster.in_flight, self.cluster.waiting, self.cluster.budget.held) == (0, 0, 0)
        assert not self.cluster._pending.calls
        assert not self.cluster._pending.resting


MOVES: Moves = {
    "begin": (10, lambda rng: (rng.choice(POLICIES), rng.random() < 0.4, rng.random() < 0.5)),
    "end": (9, lambda rng: (rng.randrange(8), rng.choice(OUTCOMES))),
    "connect": (3, lambda rng: (rng.randrange(3), rng.choice([IDLE, READY, READY, TRANSIENT_FAILURE]))),
    "wait": (4, lambda rng: (rng.choice([0.0, 0.001, 0.1, 0.5, 30.0]),)),
    "cancel": (1, lambda rng: (rng.randrange(32),)),
}


def test_long_stories(rng: Random) -> None:
    """Sixty channels, each with eighty random steps."""
    for _ in range(60):
        machine = BreakerMachine()
        machine.open(
            rng.choice(BALANCERS),
            max_requests=rng.randint(1, 5),
            max_pending_requests=rng.choice(LIMITS),
            max_retries=rng.choice([None, *LIMITS]),
            seed=rng.getrandbits(32),
        )
        walk(machine, MOVES, steps=80, rng=rng)


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=30)
