"""Scripted counterparts of a call: a cluster that answers from a list, and an observer. Each test sets the time."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.budget import Holder
from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.attempts.throttle import Throttle
from meshlib._core.call import Call
from meshlib._core.call_record import CallRecord
from meshlib._core.commands import (
    CallCommand,
    CancelAttempt,
    Finish,
    StartAttempt,
)
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import (
    AttemptEnded,
    AttemptStarted,
    Broken,
    CallEvent,
    ChannelEvent,
    Ejected,
    NotRetried,
    PickQueued,
    Retrying,
)
from meshlib._core.host import HostEntry
from meshlib._core.hosts import HostSet
from meshlib._core.limits.breaker import Breaker
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.policy import HedgingPolicy, Plan, RetryPolicy
from meshlib._core.stages import STAGES
from meshlib._core.status import Outcome

METHOD = "/test.Service/Method"
UNAVAILABLE = Outcome("UNAVAILABLE", "gone")
REFUSED = Outcome("UNAVAILABLE", "failed to connect", refused=True)
CANCELLED = Outcome("CANCELLED", "by the application", local=True)


def plan(retry: RetryPolicy | HedgingPolicy | None = None) -> Plan:
    """The plan of a method with only this policy."""
    if isinstance(retry, HedgingPolicy):
        return Plan(hedging=retry)
    return Plan(retry=retry)


def host(name: str) -> HostEntry:
    """A host without a connection."""
    return HostEntry(Endpoint(address=name))


def brief(commands: Iterable[CallCommand]) -> list[str]:
    """CallCommands as words: ``start 1 a first``, ``cancel 1``, ``finish 1 OK``."""
    return [_word(command) for command in commands]


def _word(command: CallCommand) -> str:
    if isinstance(command, StartAttempt):
        attempt = command.record
        return f"start {attempt.n} {attempt.host.endpoint.address} {attempt.why}"
    if isinstance(command, CancelAttempt):
        return f"cancel {command.n}"
    return f"finish {command.n} {command.outcome.code}"


class Draws(Random):
    """Deterministic randomness: every draw of a fraction is the same."""

    def __init__(self, fraction: float) -> None:
        super().__init__(0)
        self.fraction = fraction

    def random(self) -> float:
        return self.fraction


class ScriptedCluster:
    """A cluster for tests of calls that answers picks from a list.

    Args:
        picks: the answers in order: hosts, outcomes, or None for "wait"; the last one repeats.
        places: of the retry budget.
        ready: number of hosts reported as ready.
        fraction: returned by every random draw.
        throttling: of retries.
        max_retries: of the circuit breaker.
    """

    def __init__(
        self,
        *picks: HostEntry | Outcome | None,
        places: int = 100,
        ready: int = 3,
        fraction: float = 0.5,
        throttling: RetryThrottling | None = None,
        max_retries: int | None = None,
    ) -> None:
        self.name = "svc-a"
        self.hosts = HostSet()
        self.picks = deque(picks)
        self.places = places
        self.ready = ready
        self.rng = Draws(fraction)
        self.throttle = None if throttling is None else Throttle(throttling)
        self.retries = self
        self.breaker = Breaker(CircuitBreaker(max_retries=max_retries))
        self.panic: tuple[int, ...] = ()
        self.ejects: dict[HostEntry, str] = {}
        """Hosts that the next failure ejects, with the reason."""
        self.closed = False
        self.held = 0
        self.refusals = 0
        self.reports: list[tuple[str, str]] = []
        self.notes: list[ChannelEvent] = []
        self.lost_hosts: set[HostEntry] = set()
        self.waiting: set[Call] = set()
        self.resting: set[Call] = set()
        self.in_flight: Counter[HostEntry] = Counter()

    def pick(self, call: Call, now: float, *, wait: bool = True) -> HostEntry | Outcome | None:
        self.leave(call)
        chosen = self.picks.popleft() if len(self.picks) > 1 else self.picks[0]
        if isinstance(chosen, HostEntry):
            self.in_flight[chosen] += 1
            call.picked = chosen
        elif chosen is None and wait:
            self.waiting.add(call)
        return chosen

    def release_pick(self, call: Call) -> None:
        if call.picked is not None:
            self.in_flight[call.picked] -= 1
            call.picked = None

    def report(
        self, host: HostEntry, outcome: Outcome, seconds: float, now: float, attempt: AttemptRecord | None = None
    ) -> str:
        self.in_flight[host] -= 1
        if attempt is not None:
            attempt.seconds = seconds
        self.reports.append((host.endpoint.address, outcome.code))
        return "" if outcome.code == "OK" else self.ejects.pop(host, "")

    def leave(self, call: Call) -> None:
        self.waiting.discard(call)
        self.resting.discard(call)

    def throttled(self, *, ok: bool) -> bool:
        if self.throttle is None:
            return False
        if ok:
            self.throttle.succeeded()
        else:
            self.throttle.failed()
        return not self.throttle.allows

    def acquire(self, holder: Holder, resting: Call | None = None) -> bool | None:
        if self.held >= self.breaker.max_retries:
            return None
        if resting is not None:
            self.resting.add(resting)
        if self.held >= self.places:
            return False
        self.held += 1
        holder.holds = True
        return True

    def force(self, holder: Holder) -> bool:
        if self.held >= self.breaker.max_retries:
            return False
        self.held += 1
        holder.holds = True
        return True

    def release(self, holder: Holder) -> None:
        self.held -= 1
        holder.holds = False
        assert self.held >= 0

    def refuse(self, why: str, *, now: float) -> str:
        self.refusals += 1
        return why

    def lost(self, host: HostEntry, *, since: float, cut: bool, now: float) -> bool:
        return host in self.lost_hosts

    def note(self, event: ChannelEvent) -> None:
        self.notes.append(event)

    def situation(self) -> str:
        return "no endpoint is ready"


class Ear:
    """Records every event of calls and channels."""

    def __init__(self) -> None:
        self.calls: list[CallEvent] = []
        self.metadata: tuple[tuple[str, str], ...] = ()
        """Added to each attempt."""
        self.channel: list[ChannelEvent] = []

    every_event = True

    def on_attempt_started(self, call: CallRecord, event: AttemptStarted) -> tuple[tuple[str, str], ...]:
        self.calls.append(event)
        return self.metadata

    def on_call_event(self, call: CallRecord, event: CallEvent) -> None:
        self.calls.append(event)

    def on_channel_event(self, event: ChannelEvent) -> None:
        self.channel.append(event)

    def heard(self, kind: type[ChannelEvent]) -> list[Any]:
        return [event for event in self.channel if isinstance(event, kind)]


def ended(commands: Sequence[CallCommand]) -> Outcome:
    """The outcome of the one Finish among commands."""
    finishes = [command for command in commands if isinstance(command, Finish)]
    assert len(finishes) == 1, commands
    return finishes[0].outcome


def assert_path(events: Sequence[CallEvent]) -> None:
    """The events of one call are a path through the table of stages: each attempt goes down it in order, and the steps
    after an attempt begin above it."""
    order = {stage.name: place for place, stage in enumerate(STAGES)}
    lowest: dict[int, int] = {}
    waited = -1
    for event in events:
        place = order[event.stage]
        if isinstance(event, PickQueued):
            assert waited < 0, events
            waited = place
        elif isinstance(event, AttemptStarted):
            assert event.n == len(lowest) + 1, events
            assert waited < place, events
            waited = -1
            lowest[event.n] = place
        elif isinstance(event, Broken):
            assert waited < place, events
            waited = -1
        elif isinstance(event, AttemptEnded):
            assert lowest[event.n] < place, events
            lowest[event.n] = place
        else:
            assert isinstance(event, Ejected | Retrying | NotRetried)
            assert place < lowest[event.n], events
