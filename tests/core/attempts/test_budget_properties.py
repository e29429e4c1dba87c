"""The retry budget against an independent count: which call holds a share, since when, and whether it should.

A share is granted if fewer are held than the budget and ``max_retries`` allow at that moment. It is held through the
back-off and the retry, and released however either ends.
"""

import math
from fractions import Fraction
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.channels import Channel, Moves, walk
from tests.core.scripted import CANCELLED, REFUSED, UNAVAILABLE

from meshlib._core.attempt import AttemptRecord
from meshlib._core.call import Call, CallCommands, State
from meshlib._core.commands import CancelAttempt, Finish, StartAttempt
from meshlib._core.connectivity import IDLE, READY
from meshlib._core.explanation import OVER_BUDGET, RETRIES_FULL
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.policy import HedgingPolicy, RetryBudget, RetryPolicy
from meshlib._core.status import OK, Outcome

POLICIES = [
    None,
    RetryPolicy(initial_backoff=0.2),
    RetryPolicy(max_attempts=6, initial_backoff=1.0, max_backoff=4.0),
    RetryPolicy(max_attempts=4, per_attempt_timeout=0.5),
]
HEDGES = [
    HedgingPolicy(max_attempts=3, hedging_delay=0.5),
    HedgingPolicy(max_attempts=5, hedging_delay=0.0),
]
OUTCOMES = [OK, *[UNAVAILABLE] * 5, REFUSED, Outcome("NOT_FOUND")]


class BudgetMachine(RuleBasedStateMachine):
    """A channel of three hosts, a budget, and failing calls."""

    @initialize(
        percent=st.sampled_from([0.0, 20.0, 29.0, 50.0, 100.0, None]),
        least=st.integers(0, 2),
        max_retries=st.sampled_from([None, 0, 1, 2, 4]),
        seed=st.integers(0, 2**32),
    )
    def open(self, percent: float | None, least: int, max_retries: int | None, seed: int) -> None:
        self.percent, self.least = percent, least
        self.most = math.inf if max_retries is None else max_retries
        self.channel = Channel(
            budget=None if percent is None else RetryBudget(budget_percent=percent, min_retry_concurrency=least),
            circuit_breaker=CircuitBreaker(max_retries=max_retries),
            seed=seed,
        )
        self.cluster = self.channel.cluster
        self.now = 0.0
        self.calls: list[Call] = []
        self.flying: dict[tuple[int, int], AttemptRecord] = {}
        self.finished: dict[int, Outcome] = {}
        self.placed: set[int] = set()
        """Retried calls that hold a share, by observation."""
        self.unplaced: set[int] = set()
        """Calls that back off without a share."""
        self.refused = 0
        self.gone: dict[int, float] = {}
        """Times of the last loss of each host's connection."""
        self.channel.resolve(*"abc", now=0.0)
        for address in "abc":
            self.channel.put(address, READY, now=0.0)

    # Events.

    @rule(policy=st.sampled_from(POLICIES), streaming=st.booleans(), timeout=st.sampled_from([None, None, 1.0]))
    def begin(self, policy: RetryPolicy | None, streaming: bool, timeout: float | None) -> None:
        deadline = None if timeout is None else self.now + timeout
        self.calls.append(self.channel.call(policy, streaming=streaming, wait_for_ready=True, deadline=deadline))
        self.feed(len(self.calls) - 1, self.calls[-1].begin)

    @rule(policy=st.sampled_from(HEDGES))
    def begin_hedged(self, policy: HedgingPolicy) -> None:
        self.calls.append(self.channel.call(policy, wait_for_ready=True))
        self.feed(len(self.calls) - 1, self.calls[-1].begin)

    @rule(which=st.integers(0, 15), outcome=st.sampled_from(OUTCOMES))
    def end(self, which: int, outcome: Outcome) -> None:
        if self.flying:
            self.end_one(sorted(self.flying)[which % len(self.flying)], outcome)
            self.serve()

    def end_one(self, key: tuple[int, int], outcome: Outcome) -> None:
        """End an attempt; if that ends its call's try, the current state decides about a share."""
        number, n = key
        attempt, call = self.flying.pop(key), self.calls[number]
        counted = attempt.outcome is None and not attempt.dropped
        commands = self.feed(number, lambda now: call.on_outcome(n, outcome, now=now))
        if call.plan.hedging is None and counted:
            again = [c.record.why for c in commands if isinstance(c, StartAttempt)]
            if again != ["refused"] and call.state is not State.WAITING:
                self.tried(number)

    def tried(self, number: int) -> None:
        """A try of a retried call ended: its share is released, and the next one is granted or not."""
        call = self.calls[number]
        self.placed.discard(number)
        if call.state is State.BACKOFF:
            assert len(self.placed_ones) < self.most
            (self.placed if len(self.placed_ones) < self.limit else self.unplaced).add(number)
        elif call.verdict == RETRIES_FULL:
            assert len(self.placed_ones) == self.most

    @rule(which=st.integers(0, 2), away=st.booleans())
    def lose(self, which: int, away: bool) -> None:
        """A host loses its connection, and may reconnect at once."""
        address = "abc"[which]
        link = self.channel.links[address]
        if link.host.subchannel is link and link.is_now == READY:
            self.gone[id(link.host)] = self.now
            self.channel.put(address, IDLE, now=self.now)
        if not away:
            self.come(which)

    @rule(which=st.integers(0, 2))
    def come(self, which: int) -> None:
        self.channel.put("abc"[which], READY, now=self.now)
        self.serve()

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.1, 0.5, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for number, call in enumerate(self.calls):
            rested, streamed = call.state is State.BACKOFF, call.state is State.FLYING
            lost = self.lost(call) if rested else False
            due = (call.next_timer() or math.inf) <= self.now
            commands = self.feed(number, call.on_timer)
            if not due or call.plan.hedging is not None:
                continue
            if rested and number in self.unplaced:
                if call.state is State.BACKOFF:
                    assert not lost  # it waits for a poll to confirm the loss that grpc reported
                    continue
                self.unplaced.discard(number)
                # Beyond the budget only calls of a lost host are retried, and count like any other.
                if not lost:
                    assert call.verdict == OVER_BUDGET
                    assert self.finished[number] is call.attempts[-1].outcome
                elif call.verdict == RETRIES_FULL:
                    assert len(self.placed_ones) == self.most
                elif call.state is not State.DONE:
                    self.placed.add(number)
            elif streamed and any(isinstance(command, CancelAttempt) for command in commands):
                self.tried(number)
        self.channel.step(now=self.now)
        self.serve()

    def lost(self, call: Call) -> bool:
        """Whether the host of the last attempt was lost since its start."""
        last = call.attempts[-1]
        return last.host.state != READY or self.gone.get(id(last.host), -math.inf) >= last.start

    @rule(which=st.integers(0, 31))
    def cancel(self, which: int) -> None:
        if self.calls:
            call = self.calls[which % len(self.calls)]
            self.feed(which % len(self.calls), lambda now: call.on_cancel(CANCELLED, now=now))

    def serve(self) -> None:
        self.channel.step(now=self.now)
        for number, call in enumerate(self.calls):
            if call.woken:
                self.feed(number, call.on_endpoints)

    def feed(self, number: int, step: Any) -> CallCommands:
        call = self.calls[number]
        held, room = self.cluster.budget.held, min(self.limit, self.most)
        rested = call.state is State.BACKOFF
        denied = self.cluster.retries.refused
        commands: CallCommands = step(now=self.now)
        for command in commands:
            if isinstance(command, StartAttempt):
                self.flying[number, command.record.n] = command.record
                if command.record.why == "hedge":
                    # A parallel copy takes a share of its own; one after a back-off already holds it.
                    assert held < room or self.cluster.budget.held <= held or rested
            elif isinstance(command, Finish):
                self.finished[number] = command.outcome
        if call.state is State.DONE:
            self.placed.discard(number)
            self.unplaced.discard(number)
        if call.verdict in (OVER_BUDGET, RETRIES_FULL) and commands and call.plan.hedging is None:
            assert self.cluster.retries.refused == denied + 1
        return commands

    # Invariants.

    @property
    def limit(self) -> float:
        """Envoy's limit: a share of the active calls, including the retry, rounded down; or the minimum."""
        if self.percent is None:
            return math.inf
        active = len(self.flying) + sum(call.state is State.WAITING for call in self.calls) + 1
        return max(math.floor(Fraction(self.percent) * active / 100), self.least)

    @property
    def placed_ones(self) -> list[object]:
        """The holders: retried calls by the count here, copies by their own flag."""
        copies = [a for call in self.calls if call.plan.hedging is not None for a in call.attempts if a.holds]
        return [*self.placed, *copies]

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "channel"):
            return
        budget = self.cluster.budget
        assert budget.held == len(self.placed_ones)
        assert budget.held <= self.most
        for number in self.unplaced:
            assert self.calls[number].state is State.BACKOFF
        for call in self.calls:
            copies = [attempt for attempt in call.attempts if attempt.holds and attempt.outcome is None]
            assert all(attempt.n > 1 and attempt.seconds is None for attempt in copies)
            assert len(copies) < 2 or call.plan.hedging is not None

    def teardown(self) -> None:
        """However the calls end, every share is released."""
        if not hasattr(self, "channel"):
            return
        for number, call in enumerate(self.calls):
            if number % 2:
                self.feed(number, lambda now, call=call: call.on_cancel(CANCELLED, now=now))
        self.channel.close(now=self.now)
        self.serve()
        for key in sorted(self.flying):
            self.end_one(key, UNAVAILABLE)
        self.serve()
        self.check()
        assert all(call.state is State.DONE for call in self.calls)
        assert (self.cluster.budget.held, self.cluster.in_flight) == (0, 0)


MOVES: Moves = {
    "begin": (8, lambda rng: (rng.choice(POLICIES[1:]), rng.random() < 0.5, rng.choice([None, None, None, 1.0]))),
    "begin_hedged": (1, lambda rng: (rng.choice(HEDGES),)),
    "end": (10, lambda rng: (rng.randrange(16), rng.choice(OUTCOMES))),
    "lose": (1, lambda rng: (rng.randrange(3), rng.random() < 0.3)),
    "come": (2, lambda rng: (rng.randrange(3),)),
    "wait": (3, lambda rng: (rng.choice([0.0, 0.005, 0.1, 0.5, 5.0]),)),
    "cancel": (1, lambda rng: (rng.randrange(32),)),
}


def test_long_stories(rng: Random) -> None:
    """Sixty channels, each with eighty random steps."""
    for _ in range(60):
        machine = BudgetMachine()
        machine.open(
            rng.choice([0.0, 20.0, 29.0, 50.0, 100.0, None]),
            least=rng.randrange(3),
            max_retries=rng.choice([None, None, 0, 1, 2, 4]),
            seed=rng.getrandbits(32),
        )
        walk(machine, MOVES, steps=80, rng=rng)


TestBudget = BudgetMachine.TestCase
TestBudget.settings = settings(max_examples=60, stateful_step_count=30)
