"""Outlier detection against a model that stores every outcome and computes everything else from the start.

The model is Envoy's algorithm: it keeps no counter, and derives each from the list of a host's outcomes. It draws from
the same generator, so that a missing or extra draw shows as well.
"""

import math
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.channels import Channel, Moves, walk
from tests.core.health.outlier_model import GATEWAY, LASTED, Model

from meshlib._core.events import HostEjected, HostReturned, HostSpared
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.host import HostEntry
from meshlib._core.status import CODES, OK, Outcome

ADDRESSES = tuple("abcdefgh")


class Eighths(Random):
    """Draws eighths, so that every sum of times is exact, and counts the draws."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.drawn = 0

    def random(self) -> float:
        self.drawn += 1
        return math.floor(super().random() * 8) / 8


class Static:
    """A balancer that draws nothing."""

    def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
        class Picker:
            def pick(self, call: object, *, now: float) -> Any:
                return hosts[0]

        return Picker()


CHANCES = st.sampled_from([0, 50, 100])
POLICIES = st.builds(
    OutlierDetection,
    consecutive_5xx=st.integers(1, 4),
    enforcing_consecutive_5xx=CHANCES,
    consecutive_gateway_failure=st.integers(1, 4),
    enforcing_consecutive_gateway_failure=CHANCES,
    interval=st.sampled_from([1.0, 10.0]),
    base_ejection_time=st.sampled_from([0.5, 4.0, 30.0]),
    max_ejection_time=st.sampled_from([None, 30.0, 60.0]),
    max_ejection_time_jitter=st.sampled_from([0.0, 0.0, 8.0]),
    max_ejection_percent=st.sampled_from([0, 10, 33, 50, 60, 100]),
    always_eject_one_host=st.booleans(),
    success_rate_minimum_hosts=st.integers(1, 4),
    success_rate_request_volume=st.integers(1, 6),
    success_rate_stdev_factor=st.sampled_from([1, 700, 1900]),
    enforcing_success_rate=CHANCES,
    failure_percentage_threshold=st.sampled_from([0, 20, 50, 85, 100]),
    failure_percentage_minimum_hosts=st.integers(1, 4),
    failure_percentage_request_volume=st.integers(1, 6),
    enforcing_failure_percentage=CHANCES,
    split_external_local_origin_errors=st.booleans(),
    consecutive_local_origin_failure=st.integers(1, 4),
    enforcing_consecutive_local_origin_failure=CHANCES,
    enforcing_local_origin_success_rate=CHANCES,
    enforcing_failure_percentage_local_origin=CHANCES,
)
OUTCOMES = (
    OK,
    OK,
    *(Outcome(code) for code in CODES[1:]),
    *(Outcome(code) for code in GATEWAY * 3),
    *(Outcome(code, answered=False) for code in GATEWAY * 3),
    Outcome("UNAVAILABLE", refused=True),
    Outcome("UNAVAILABLE", local=True),
)


class OutlierMachine(RuleBasedStateMachine):
    """A channel of up to eight hosts with attempts that end as the rules say, and the model."""

    @initialize(policy=POLICIES, hosts=st.integers(1, 8), seed=st.integers(0, 2**32))
    def open(self, policy: OutlierDetection, hosts: int, seed: int) -> None:
        self.now = 0.0
        self.policy = policy
        self.channel = Channel.of(*ADDRESSES[:hosts], balancer=Static(), outlier_detection=policy)
        self.cluster = self.channel.cluster
        assert self.cluster.outliers is not None
        self.outliers = self.cluster.outliers
        self.dice = self.outliers._rng = Eighths(seed)
        self.other_dice = Eighths(seed)
        self.model = Model(policy, self.other_dice, self.now)
        self.busy: list[HostEntry] = []
        """Hosts with a call that does not end, so that they may leave and return unchanged."""

    @property
    def hosts(self) -> list[HostEntry]:
        return list(self.cluster.hosts)

    # Events.

    @rule(which=st.integers(0, 7), outcome=st.sampled_from(OUTCOMES), times=st.integers(1, 6))
    def end(self, which: int, outcome: Outcome, times: int) -> None:
        """Attempts on one host, which may be draining, end with one outcome."""
        choice = [*self.hosts, *(host for host in self.busy if host.removed)]
        for _ in range(times if choice else 0):
            host = choice[which % len(choice)]
            was, counts, struck = host.ejection, self.totals(host), host.struck
            out = sum(each.ejection is not None for each in self.hosts)
            host.in_flight += 1
            self.cluster.in_flight += 1
            why = self.cluster.report(host, outcome, LASTED, now=self.now)
            self.model.outcome(host, outcome, self.hosts, self.now)
            ejected = host.ejection is not None and host.ejection is not was
            assert bool(why) == ejected
            if ejected:
                self.may_be_ejected(out)
                assert host.record.consecutive_gateway_failure == host.record.consecutive_local_origin_failure == 0
            if outcome is OK and not struck:
                assert counts == self.totals(host)
            self.agrees(host)

    @rule(which=st.integers(0, 7), ok=st.integers(0, 8), bad=st.integers(0, 8), code=st.sampled_from(CODES[1:]))
    def serve(self, which: int, ok: int, bad: int, code: str) -> None:
        """Responses of a host alternate between success and failure: rates without consecutive failures."""
        for turn in range(max(ok, bad)):
            if turn < bad:
                self.end(which, Outcome(code), 1)
            if turn < ok:
                self.end(which, OK, 1)

    @rule(which=st.integers(0, 7), times=st.integers(1, 10))
    def relapse(self, which: int, times: int) -> None:
        """A host fails again after each return, so that each ejection lasts longer."""
        for _ in range(times if self.hosts else 0):
            host = self.hosts[which % len(self.hosts)]
            self.end(which, Outcome("UNAVAILABLE"), self.policy.consecutive_gateway_failure)
            if host.ejection is None:
                return
            self.now = max(self.now, host.ejection.until, self.outliers.sweep_at)
            self.step()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 7.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    @rule(times=st.integers(1, 4), late=st.sampled_from([0.0, 0.0, 0.25, 3.0]))
    def sweep(self, times: int, late: float) -> None:
        for _ in range(times):
            self.now = max(self.now, self.outliers.sweep_at + late)
            self.step()

    @rule(named=st.lists(st.sampled_from(ADDRESSES), max_size=8, unique=True), hold=st.integers(0, 7))
    def resolve(self, named: list[str], hold: int) -> None:
        """Hosts are added and removed; a call, if there is none yet, holds one."""
        if self.hosts and not self.busy:
            host = self.hosts[hold % len(self.hosts)]
            host.in_flight += 1
            self.cluster.in_flight += 1
            self.busy.append(host)
        self.channel.resolve(*named, now=self.now)
        for address in named:
            if self.channel.links[address].is_now != 2:
                self.channel.put(address, 2, now=self.now)

    @rule()
    def let_go(self) -> None:
        for host in self.busy:
            host.in_flight -= 1
            self.cluster.in_flight -= 1
        self.busy.clear()
        self.step()

    def step(self) -> None:
        """Run the timer: between two sweeps no host changes."""
        before = {host: host.ejection for host in self.hosts}
        due = self.now >= self.model.sweep_at
        self.channel.step(now=self.now)
        if due:
            self.model.sweep(self.hosts, self.now)
        for host, ejection in before.items():
            if ejection is not None:
                over = due and ejection.until <= self.now
                assert (host.ejection is not ejection) == over
            elif not due:
                assert host.ejection is None

    # Invariants.

    def may_be_ejected(self, out: int) -> None:
        """One more than ``out`` is within the percentage, or is the one host always allowed."""
        share = Fraction(100 * (out + 1), len(self.hosts))
        assert share <= Fraction(self.policy.max_ejection_percent) or (out == 0 and self.policy.always_eject_one_host)

    def totals(self, host: HostEntry) -> list[object]:
        return [getattr(host.record, name) for name in type(host.record).__slots__]

    def agrees(self, host: HostEntry) -> None:
        story, record = self.model.story(host), host.record
        assert (host.ejection is not None) == story.ejected
        assert record.times == story.times(self.policy)
        if host.ejection is not None:
            assert host.ejection.until == story.until
            return
        rows = record.consecutive_5xx, record.consecutive_gateway_failure, record.consecutive_local_origin_failure
        assert rows == story.rows
        # A host with counts to reset is marked.
        assert host.struck or rows == (0, 0, 0)

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "channel"):
            return
        outliers, model = self.outliers, self.model
        for host in self.hosts:
            self.agrees(host)
        assert outliers.sweep_at == model.sweep_at
        assert (outliers.enforced, outliers.overflow) == (model.ejections, model.overflow)
        assert outliers.detected == outliers.enforced + model.spared
        assert self.dice.drawn == self.other_dice.drawn
        policy = self.policy
        chances = [getattr(policy, name) for name in type(policy).__slots__ if name.startswith("enforcing_")]
        if not policy.max_ejection_time_jitter and all(chance in (0, 100) for chance in chances):
            assert not self.dice.drawn

    def teardown(self) -> None:
        """Events match the history: each outlier once, and each return."""
        if not hasattr(self, "channel"):
            return
        self.let_go()
        self.channel.step(now=self.now)
        heard = self.channel.ear.heard
        assert len(heard(HostEjected)) == self.model.ejections
        assert len(heard(HostSpared)) == self.model.spared
        returns = sum(word == "returned" for story in self.model.stories.values() for word, _ in story.words)
        assert len(heard(HostReturned)) == returns


MOVES: Moves = {
    "end": (10, lambda rng: (rng.randrange(8), rng.choice(OUTCOMES), rng.randint(1, 5))),
    "serve": (4, lambda rng: (rng.randrange(8), rng.randrange(8), rng.randrange(8), rng.choice(CODES[1:]))),
    "relapse": (1, lambda rng: (rng.randrange(8), rng.randint(1, 10))),
    "wait": (2, lambda rng: (rng.choice([0.0, 0.5, 1.0, 7.0, 40.0]),)),
    "sweep": (4, lambda rng: (rng.randint(1, 3), rng.choice([0.0, 0.0, 0.25, 3.0]))),
    "resolve": (1, lambda rng: (rng.sample(ADDRESSES, rng.randint(2, 8)), rng.randrange(8))),
    "let_go": (1, lambda _: ()),
}


def drawn(rng: Random) -> OutlierDetection:
    """A policy like those of :data:`POLICIES`, from another random source."""

    def chance() -> int:
        return rng.choice([0, 50, 100, 100])

    return OutlierDetection(
        consecutive_5xx=rng.randint(1, 5),
        enforcing_consecutive_5xx=chance(),
        consecutive_gateway_failure=rng.randint(1, 5),
        enforcing_consecutive_gateway_failure=chance(),
        interval=rng.choice([1.0, 10.0]),
        base_ejection_time=rng.choice([0.5, 4.0, 30.0]),
        max_ejection_time=rng.choice([None, 30.0, 60.0]),
        max_ejection_time_jitter=rng.choice([0.0, 8.0]),
        max_ejection_percent=rng.choice([0, 10, 33, 50, 60, 100]),
        always_eject_one_host=rng.random() < 0.7,
        success_rate_minimum_hosts=rng.randint(1, 5),
        success_rate_request_volume=rng.randint(1, 8),
        success_rate_stdev_factor=rng.choice([1, 700, 1900]),
        enforcing_success_rate=chance(),
        failure_percentage_threshold=rng.choice([1, 20, 50, 85, 100]),
        failure_percentage_minimum_hosts=rng.randint(1, 5),
        failure_percentage_request_volume=rng.randint(1, 8),
        enforcing_failure_percentage=chance(),
        split_external_local_origin_errors=rng.random() < 0.5,
        consecutive_local_origin_failure=rng.randint(1, 5),
        enforcing_consecutive_local_origin_failure=chance(),
        enforcing_local_origin_success_rate=chance(),
        enforcing_failure_percentage_local_origin=chance(),
    )


def test_long_stories(rng: Random) -> None:
    """Thirty channels, each with a hundred random steps."""
    for _ in range(30):
        machine = OutlierMachine()
        machine.open(drawn(rng), hosts=rng.randint(1, 8), seed=rng.getrandbits(32))
        walk(machine, MOVES, steps=100, rng=rng)


@pytest.mark.parametrize("hosts", [2, 3, 7, 8])
def test_hosts_that_do_alike_are_no_outliers(hosts: int) -> None:
    """At any rate and any deviation threshold: the mean of equal rates is that rate."""
    policy = OutlierDetection(
        success_rate_minimum_hosts=1,
        success_rate_request_volume=1,
        success_rate_stdev_factor=1,
        enforcing_success_rate=100,
        enforcing_consecutive_gateway_failure=0,
        max_ejection_percent=100,
    )
    for total in range(1, 16):
        for bad in range(total + 1):
            channel = Channel.of(*ADDRESSES[:hosts], outlier_detection=policy)
            for host in channel.cluster.hosts:
                host.successes, host.record.errors = total - bad, bad
            channel.step(now=10.0)
            assert channel.cluster.outliers is not None
            assert channel.cluster.outliers.detected == 0


class Untouched:
    """A record whose use raises."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"{name} was looked at")

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError(f"{name} was written")


def test_a_call_that_succeeds_is_not_looked_at() -> None:
    """The record of a host is read only if the host failed before: calls on a good host stay cheap."""
    channel = Channel.of("a", outlier_detection=OutlierDetection())
    host, record = channel.host("a"), channel.host("a").record
    host.record = Untouched()  # type: ignore[assignment]
    assert [channel.pick() for _ in range(10)] == ["a"] * 10
    host.record = record
    host.in_flight += 1
    channel.cluster.in_flight += 1
    channel.cluster.report(host, Outcome("UNAVAILABLE"), 0.0, now=1.0)
    assert record.consecutive_gateway_failure == 1
    channel.pick()
    assert record.consecutive_gateway_failure == 0
    host.record = Untouched()  # type: ignore[assignment]
    assert channel.pick() == "a"


TestOutliers = OutlierMachine.TestCase
TestOutliers.settings = settings(max_examples=30, stateful_step_count=25)
