"""The rules of a state machine: one call, a scripted cluster, and a shell that acts in any order."""

import math
from collections import Counter
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.call_inputs import ANSWERS, HOSTS, ODD, SELDOM, STEPS, THROTTLING
from tests.core.scripted import (
    CANCELLED,
    METHOD,
    REFUSED,
    UNAVAILABLE,
    Ear,
    ScriptedCluster,
    assert_path,
    plan,
)

from meshlib._core.attempt import AttemptRecord
from meshlib._core.call import CallCommands, State
from meshlib._core.cluster import CLOSED
from meshlib._core.dispatch import dispatch_call
from meshlib._core.events import AttemptStarted, Ejected
from meshlib._core.explanation import RETRIES_FULL, THROTTLED
from meshlib._core.hedged import machine
from meshlib._core.policy import HedgingPolicy, RetryPolicy, RetryThrottling
from meshlib._core.status import Outcome


class CallMachine(RuleBasedStateMachine):
    """One call, a scripted cluster, and a shell that acts in any order."""

    @initialize(
        data=st.data(),
        deadline=st.sampled_from([None, None, None, 2.0, 20.0, 0.0]),
        streaming=st.booleans(),
        wait_for_ready=st.booleans(),
        places=st.integers(0, 3),
        throttling=st.sampled_from(THROTTLING),
        max_retries=st.sampled_from([None, None, 0, 1, 2]),
        begins=st.sampled_from([True] * 9 + [False]),
        seed=st.integers(0, 2**32),
    )
    def open(
        self,
        data: st.DataObject,
        deadline: float | None,
        streaming: bool,
        wait_for_ready: bool,
        places: int,
        throttling: RetryThrottling | None,
        max_retries: int | None,
        begins: bool,
        seed: int,
    ) -> None:
        policy = data.draw(st.sampled_from(POLICIES[type(self)]))
        self.start(policy, deadline, streaming, wait_for_ready, places, throttling, max_retries, seed)
        if begins:
            self.begin()

    def start(
        self,
        policy: RetryPolicy | HedgingPolicy | None,
        deadline: float | None,
        streaming: bool,
        wait_for_ready: bool,
        places: int,
        throttling: RetryThrottling | None,
        max_retries: int | None,
        seed: int,
    ) -> None:
        self.now = 0.0
        self.policy = policy
        self.cluster = ScriptedCluster(HOSTS["a"], places=places, throttling=throttling, max_retries=max_retries)
        self.cluster.rng = Random(seed)  # type: ignore[assignment]
        self.ear = Ear()
        self.call = machine(plan(policy))(
            self.cluster,  # type: ignore[arg-type]
            plan(policy),
            METHOD,
            deadline=deadline,
            streaming=streaming,
            wait_for_ready=wait_for_ready,
        )
        self.call.observe(self.ear)
        self.flying: set[int] = set()
        self.cancelled: set[int] = set()
        self.finishes: list[Outcome] = []
        self.waited_for: dict[int, float] = {}
        """Start of the application's wait for a message, by attempt."""
        self.received: set[int] = set()
        """Attempts that returned a message."""
        self.given_up: set[int] = set()
        """Attempts that timed out without a message."""
        self.panics: list[bool] = []
        """Whether each attempt's host may be ejected."""

    def perform(self, commands: CallCommands) -> CallCommands:
        """Perform commands like a shell, and check the invariants of each."""
        for command in commands:
            assert not self.finishes, f"{command} after the end"
            dispatch_call(command, self)
        return commands

    # Ports of the call.

    def start_attempt(self, record: AttemptRecord) -> None:
        assert record.n == len(self.call.attempts)
        assert not self.call.committed
        assert record.timeout is None or record.timeout > 0
        self.flying.add(record.n)
        self.waited_for[record.n] = self.now if self.call.reading else math.inf
        self.panics.append(bool(self.cluster.panic))

    def cancel_attempt(self, n: int) -> None:
        assert n in self.flying - self.cancelled
        self.cancelled.add(n)

    def finish(self, outcome: Outcome, n: int) -> None:
        self.finishes.append(outcome)

    # Answers of the cluster.

    @rule(
        answer=st.sampled_from([*"aabbc", "nobody yet", "nobody"]),
        ready=st.integers(0, 2),
        places=st.integers(0, 3),
        lost=st.sampled_from(["", *"abc"]),
        ejects=st.sampled_from(["", *"abc"]),
        panic=st.booleans(),
    )
    def arrange(self, answer: str, ready: int, places: int, lost: str, ejects: str, panic: bool) -> None:
        if not self.cluster.closed:
            self.cluster.picks[0] = ANSWERS[answer]
            self.cluster.ready = ready
            self.cluster.places = places
            self.cluster.lost_hosts = {HOSTS[name] for name in lost}
            self.cluster.ejects = {HOSTS[name]: "five in a row" for name in ejects}
            self.cluster.panic = (0,) if panic else ()

    @rule(really=SELDOM)
    def close(self, really: bool) -> None:
        if not really:
            return
        self.cluster.closed = True
        self.cluster.picks[0] = CLOSED
        self.cluster.ready = 0

    # Inputs from the shell.

    @rule()
    def begin(self) -> None:
        self.perform(self.call.begin(now=self.now))

    @rule()
    def come_to_the_timer(self) -> None:
        self.now = max(self.now, self.call.next_timer() or 0.0)
        for _ in range(10):
            timer = self.call.next_timer()
            if timer is None or timer > self.now:
                return
            self.perform(self.call.on_timer(now=self.now))
        raise AssertionError("the timer is due for ever")

    @rule(seconds=STEPS)
    def timer_at_any_time(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.call.on_timer(now=self.now))

    @rule()
    def endpoints(self) -> None:
        self.call.wake()
        self.perform(self.call.on_endpoints(now=self.now))

    @rule(which=st.integers(0, 4), received=st.booleans())
    def read(self, which: int, received: bool) -> None:
        """The application requests or receives a message."""
        if not self.flying:
            return
        n = sorted(self.flying)[which % len(self.flying)]
        if received:
            self.perform(self.call.on_commit(n, "message", now=self.now))
            self.call.on_message()
            if counts(self.call.attempts[n - 1]):
                self.received.add(n)
            self.waited_for = dict.fromkeys(self.waited_for, math.inf)
        else:
            self.call.on_reading(now=self.now)
            self.waited_for = dict.fromkeys(self.waited_for, self.now)

    @rule(which=st.integers(0, 4), outcome=ODD)
    def end_oddly(self, which: int, outcome: Outcome) -> None:
        if self.flying:
            n = sorted(self.flying)[which % len(self.flying)]
            self.flying.discard(n)
            attempt = self.call.attempts[n - 1]
            told = attempt.outcome or outcome
            ejects = self.cluster.ejects.get(attempt.host, "") if told.code != "OK" else ""
            counted = counts(attempt)
            self.perform(self.call.on_outcome(n, outcome, now=self.now))
            assert attempt.ejected == ejects
            if counted and isinstance(self.policy, RetryPolicy):
                self.what_follows(self.policy, attempt, outcome)

    def what_follows(self, policy: RetryPolicy, attempt: AttemptRecord, outcome: Outcome) -> None:
        """An attempt ended and nothing else happened: check the effect of its metadata and of the channel's limits."""
        if self.call.state is State.BACKOFF:
            timer = self.call.next_timer()
            assert timer is not None
            assert self.cluster.throttle is None or self.cluster.throttle.allows
            if outcome.pushback is None and ("x-reset", "4") in outcome.metadata and policy.reset_headers:
                # Between the server's delay and one and a half times that.
                assert 4 <= timer - self.now <= 6
        elif self.call.verdict == THROTTLED:
            assert self.cluster.throttle is not None
            assert not self.cluster.throttle.allows
        elif self.call.verdict == RETRIES_FULL:
            assert self.cluster.held == self.cluster.breaker.max_retries
        if ("x-retry", "yes") in outcome.metadata and policy.retriable_headers:
            assert "is not retried" not in self.call.verdict
        elif outcome.code in ("INVALID_ARGUMENT", "OK") and self.call.attempts[-1].why != "refused":
            assert self.call.state is State.DONE

    @rule(which=st.integers(0, 4))
    def fail(self, which: int) -> None:
        self.end_oddly(which, UNAVAILABLE)

    @rule(which=st.integers(0, 4), outcome=st.sampled_from([UNAVAILABLE, REFUSED]))
    def fail_and_go_on(self, which: int, outcome: Outcome) -> None:
        self.end_oddly(which, outcome)
        self.come_to_the_timer()

    @rule(which=st.integers(0, 4))
    def refuse(self, which: int) -> None:
        self.end_oddly(which, REFUSED)

    @rule(which=st.integers(0, 4), why=st.sampled_from(["message", "headers", "buffer"]), really=SELDOM)
    def commit(self, which: int, why: str, really: bool) -> None:
        if not really or not self.call.attempts:
            return
        n = which % len(self.call.attempts) + 1
        before = self.call.committed
        self.perform(self.call.on_commit(n, why, now=self.now))
        assert self.call.committed in {before, n}
        assert not before or self.call.committed == before
        if self.call.committed == n:
            assert {attempt.n for attempt in self.call.attempts if counts(attempt)} <= {n}

    @rule(really=SELDOM)
    def cancel(self, really: bool) -> None:
        if not really:
            return
        self.perform(self.call.on_cancel(CANCELLED, now=self.now))
        assert len(self.finishes) == 1

    # Invariants.

    @invariant()
    def check(self) -> None:
        self.in_flight_is_what_has_no_outcome()
        self.finished_once()
        self.places_are_those_of_retries()
        self.registered_where_it_waits()
        self.in_flight_means_that_something_counts()
        self.no_more_attempts_than_allowed()
        self.a_timer_is_a_time()
        self.idle_is_who_is_waited_for()
        self.panic_and_ejection_are_told()
        self.the_trace_is_a_path()

    def in_flight_is_what_has_no_outcome(self) -> None:
        assert {attempt.n for attempt in self.call.attempts if attempt.seconds is None} == self.flying
        assert +self.cluster.in_flight == Counter(
            attempt.host for attempt in self.call.attempts if attempt.n in self.flying
        )

    def finished_once(self) -> None:
        assert len(self.finishes) == (self.call.state is State.DONE)
        if self.finishes:
            assert self.call.next_timer() is None
            assert self.flying <= self.cancelled

    def places_are_those_of_retries(self) -> None:
        holders = [attempt for attempt in self.call.attempts if attempt.holds]
        assert self.cluster.held == len(holders) <= self.cluster.breaker.max_retries
        in_flight = [attempt for attempt in holders if counts(attempt)]
        pending = [attempt for attempt in holders if attempt.outcome is not None]
        assert len(in_flight) + len(pending) == len(holders)
        assert all(attempt.n > 1 for attempt in in_flight)
        assert len(pending) <= (self.call.state in {State.BACKOFF, State.WAITING})

    def registered_where_it_waits(self) -> None:
        assert self.cluster.waiting == ({self.call} if self.call.state is State.WAITING else set())
        assert self.cluster.resting == ({self.call} if self.call.state is State.BACKOFF else set())

    def in_flight_means_that_something_counts(self) -> None:
        counting = [attempt for attempt in self.call.attempts if counts(attempt)]
        assert bool(counting) == (self.call.state is State.FLYING)
        assert len(counting) <= 1 or isinstance(self.policy, HedgingPolicy)

    def no_more_attempts_than_allowed(self) -> None:
        most = 1 if self.policy is None else self.policy.max_attempts
        again = Counter(
            before.host
            for before, after in zip(self.call.attempts, self.call.attempts[1:], strict=False)
            if after.why == "refused" and not isinstance(self.policy, HedgingPolicy)
        )
        assert all(count <= 1 for count in again.values())
        assert sum(attempt.why != "refused" for attempt in self.call.attempts) <= most

    def a_timer_is_a_time(self) -> None:
        timer = self.call.next_timer()
        assert timer is None or math.isfinite(timer)

    def idle_is_who_is_waited_for(self) -> None:
        """An attempt idles out only if the application waits for a message and none arrived."""
        policy = self.policy
        if not self.call.streaming or not isinstance(policy, RetryPolicy):
            return
        idle = math.inf if policy.per_attempt_idle_timeout is None else policy.per_attempt_idle_timeout
        limit = math.inf if policy.per_attempt_timeout is None else policy.per_attempt_timeout
        if self.call.state is State.FLYING:
            attempt = self.call.attempts[-1]
            first = math.inf if self.call._commitment in ("message", "headers") else limit
            due = self.waited_for[attempt.n] + min(idle, first)
            assert (self.call.next_timer() or math.inf) == due
        for attempt in self.call.attempts:
            if attempt.outcome is not None and attempt.n in self.flying and attempt.n not in self.given_up:
                self.given_up.add(attempt.n)
                assert attempt.outcome.code == "DEADLINE_EXCEEDED"
                assert not attempt.outcome.answered
                waited = self.now - self.waited_for[attempt.n]
                assert waited >= idle - 1e-9 or (waited >= limit - 1e-9 and attempt.n not in self.received)

    def panic_and_ejection_are_told(self) -> None:
        started = [event for event in self.ear.calls if isinstance(event, AttemptStarted)]
        assert [event.panic for event in started] == self.panics == [attempt.panic for attempt in self.call.attempts]
        told = sorted((event.n, event.why) for event in self.ear.calls if isinstance(event, Ejected))
        assert told == [(attempt.n, attempt.ejected) for attempt in self.call.attempts if attempt.ejected]

    def the_trace_is_a_path(self) -> None:
        assert_path(self.ear.calls)

    def teardown(self) -> None:
        """With every outcome reported and the channel closed, nothing remains."""
        if not hasattr(self, "call"):
            return
        self.begin()
        self.close(really=True)
        self.endpoints()
        for n in sorted(self.flying):
            self.flying.discard(n)
            self.perform(self.call.on_outcome(n, CANCELLED, now=self.now))
        self.endpoints()
        self.finished_once()
        assert len(self.finishes) == 1
        assert self.cluster.held == 0
        assert not +self.cluster.in_flight


def counts(attempt: AttemptRecord) -> bool:
    """Whether an attempt is in flight and its outcome matters."""
    return attempt.outcome is None and not attempt.dropped


class RetriedCall(CallMachine):
    """A call with a retry policy."""


class HedgedCall(CallMachine):
    """A call with a hedging policy."""


BOTH = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
POLICIES: dict[type[CallMachine], list[RetryPolicy | HedgingPolicy | None]] = {
    CallMachine: [None],
    RetriedCall: [
        RetryPolicy(initial_backoff=0.001),
        RetryPolicy(max_attempts=5, initial_backoff=1.0, max_backoff=4.0),
        RetryPolicy(max_attempts=5, per_attempt_timeout=0.5),
        RetryPolicy(max_attempts=4, per_attempt_timeout=3.0, retryable_status_codes=BOTH),
        RetryPolicy(unsent_only=True),
        RetryPolicy(max_attempts=4, per_attempt_idle_timeout=0.5, host_selection_retry_max_attempts=1),
        RetryPolicy(per_attempt_timeout=1.0, per_attempt_idle_timeout=0.3, retryable_status_codes=BOTH),
        RetryPolicy(
            max_attempts=5, retriable_headers=(("x-retry", "yes"), "x-reset"), reset_headers=(("x-reset", "seconds"),)
        ),
    ],
    HedgedCall: [
        HedgingPolicy(max_attempts=2, hedging_delay=3.0),
        HedgingPolicy(max_attempts=4, hedging_delay=0.5),
        HedgingPolicy(max_attempts=5, hedging_delay=0.0, non_fatal_status_codes=BOTH),
    ],
}
