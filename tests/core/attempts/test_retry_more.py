"""Other inputs of retries: the server's metadata, idle streams, throttling, and host re-selection."""

from collections import Counter

import pytest
from tests.core.scripted import UNAVAILABLE, Channel, Draws, ScriptedCluster, brief, ended, host, plan

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.policy import HedgingPolicy, RetryPolicy, RetryThrottling
from meshlib._core.attempts.retry import Retries, reset_after
from meshlib._core.balancing.contracts import Host, Picker, PickInfo
from meshlib._core.call import Call
from meshlib._core.errors import ConfigError
from meshlib._core.hedged import HedgedCall
from meshlib._core.status import OK, Outcome

A, B = host("a"), host("b")
MARKED = Outcome("NOT_FOUND", "moved", metadata=(("x-state", "draining"),))


def decided(policy: RetryPolicy, outcome: Outcome, *, draws: float = 0.0) -> float | str:
    """The decision after the first failure."""
    retries = Retries(policy, Draws(draws), lambda _: None)
    attempt = AttemptRecord(1, A, None, 0.0)
    return retries.decide(attempt, outcome, count=1, elapsed=0.0, now=0.0)


@pytest.mark.parametrize(
    ("headers", "retried"),
    [(("x-state",), True), ((("x-state", "draining"),), True), ((("x-state", "up"),), False), (("x-other",), False)],
)
def test_a_failure_is_retried_for_its_metadata(headers: tuple[object, ...], retried: bool) -> None:
    """Envoy ``retriable_headers``: by name, or by name and value, whatever the code."""
    policy = RetryPolicy(retriable_headers=headers)  # type: ignore[arg-type]
    assert (decided(policy, MARKED) == 0.0) == retried


def test_metadata_does_not_outdo_a_pushback() -> None:
    """A server that forbids a retry is obeyed."""
    outcome = Outcome("NOT_FOUND", metadata=MARKED.metadata, pushback=-1.0)
    assert decided(RetryPolicy(retriable_headers=("x-state",)), outcome) == "server pushback forbids a retry"


@pytest.mark.parametrize(("draw", "delay"), [(22 / 250, 0.522), (249 / 250, 0.749), (0.0, 0.5)])
def test_the_server_says_when(draw: float, delay: float) -> None:
    """Envoy: LowerBoundBackOff. 500 ms: the draw of 22 gives 522, that of 9999 gives 749."""
    policy = RetryPolicy(reset_headers=(("x-reset", "unix_timestamp"),))
    outcome = Outcome("UNAVAILABLE", metadata=(("x-reset", "1000"),), at=999.5)
    assert decided(policy, outcome, draws=draw) == pytest.approx(delay)


@pytest.mark.parametrize(
    ("metadata", "at", "seconds"),
    [
        ((("retry-after", "7"),), 0.0, 7),
        ((("x-reset", "1005"),), 1000.0, 5.0),
        ((("x-reset", "1005"), ("retry-after", "7")), 1000.0, 7),  # in the order of the policy
        ((("retry-after", "301"),), 0.0, None),  # longer than max_reset_interval
        ((("retry-after", "0"),), 0.0, None),
        ((("x-reset", "999"),), 1000.0, None),  # already past
        ((("retry-after", "soon"), ("retry-after", "3")), 0.0, 3),
        ((("retry-after", b"7"),), 0.0, None),
        ((("retry-after", "9" * 400),), 0.0, None),
        ((), 0.0, None),
    ],
)
def test_what_a_reset_header_says(metadata: tuple[tuple[str, str]], at: float, seconds: float | None) -> None:
    """Whole seconds, or the second since 1970; unusable values are ignored."""
    policy = RetryPolicy(reset_headers=(("retry-after", "seconds"), ("x-reset", "unix_timestamp")))
    assert reset_after(policy, Outcome("UNAVAILABLE", metadata=metadata, at=at)) == seconds


def test_a_reset_is_for_one_retry() -> None:
    """The next failure without the header has the back-off it would have had anyway."""
    policy = RetryPolicy(initial_backoff=0.1, max_backoff=10.0, reset_headers=(("retry-after", "seconds"),))
    retries = Retries(policy, Draws(1.0), lambda _: None)
    attempt = AttemptRecord(1, A, None, 0.0)
    told = Outcome("UNAVAILABLE", metadata=(("retry-after", "2"),))
    assert retries.decide(attempt, told, count=1, elapsed=0.0, now=0.0) == 3.0
    assert retries.decide(attempt, UNAVAILABLE, count=2, elapsed=0.0, now=0.0) == pytest.approx(0.2)


# Idle streams.


def streaming(**policy: object) -> Call:
    """A stream that has begun and is read, on a host that is not lost."""
    call = Call(ScriptedCluster(A, B), plan(RetryPolicy(**policy)), "/s/M", streaming=True)  # type: ignore[arg-type]
    call.on_reading(now=0.0)
    call.begin(now=0.0)
    return call


def test_an_idle_attempt_is_tried_again() -> None:
    """Before its first message it is ended like one that times out."""
    call = streaming(per_attempt_idle_timeout=1.0)
    assert call.next_timer() == 1.0
    assert brief(call.on_timer(now=1.0)) == ["cancel 1"]
    assert call.attempts[0].outcome is not None
    assert call.attempts[0].outcome.details == "no message within per_attempt_idle_timeout=1.0 s"
    timer = call.next_timer()
    assert timer is not None
    assert brief(call.on_timer(now=timer)) == ["start 2 b retry"]


def test_a_stream_that_falls_silent_ends() -> None:
    """Delivered messages cannot be retried."""
    call = streaming(per_attempt_idle_timeout=1.0)
    call.on_commit(1, "message", now=0.5)
    call.on_message()
    assert call.next_timer() is None
    call.on_reading(now=7.0)
    assert call.on_timer(now=7.9) == ()
    commands = call.on_timer(now=8.0)
    assert brief(commands) == ["cancel 1", "finish 1 DEADLINE_EXCEEDED"]
    assert call.verdict == "the application had already received a message"


def test_a_stream_that_goes_on_lives() -> None:
    """Each message restarts the time; the time between reads is the application's own."""
    call = streaming(per_attempt_idle_timeout=1.0, per_attempt_timeout=3.0)
    assert call.next_timer() == 1.0
    call.on_reading(now=0.9)
    assert call.next_timer() == 1.9
    call.on_reading(now=2.5)
    assert call.next_timer() == 3.5
    call.on_commit(1, "message", now=2.6)
    call.on_message()
    for now in (3.5, 4.4, 100.0):
        call.on_reading(now=now)
        assert call.next_timer() == now + 1.0
        call.on_message()


@pytest.mark.parametrize("limit", ["per_attempt_timeout", "per_attempt_idle_timeout"])
def test_time_runs_from_when_somebody_reads(limit: str) -> None:
    """A message may have arrived long ago: an unread one is no fault of the host. The same holds for retries."""
    call = Call(ScriptedCluster(A, B), plan(RetryPolicy(**{limit: 1.0})), "/s/M", streaming=True)  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert call.next_timer() is None
    call.on_reading(now=5.0)
    assert call.next_timer() == 6.0
    assert brief(call.on_timer(now=6.0)) == ["cancel 1"]
    timer = call.next_timer()
    assert timer is not None
    call.on_timer(now=timer)
    assert call.next_timer() == timer + 1.0


@pytest.mark.parametrize(("idle", "limit", "expected"), [(1.0, None, 1.0), (1.0, 0.5, 0.5), (0.5, 1.0, 0.5)])
def test_one_response_is_idle_until_it_comes(idle: float, limit: float | None, expected: float) -> None:
    """grpc gets the shorter of the two limits."""
    policy = RetryPolicy(per_attempt_idle_timeout=idle, per_attempt_timeout=limit)
    call = Call(ScriptedCluster(A), plan(policy), "/s/M", deadline=9.0)  # type: ignore[arg-type]
    (start,) = call.begin(now=0.0)
    assert start.record.timeout == expected  # type: ignore[union-attr]


# Throttling.


def test_retry_throttled() -> None:
    """C-core: retry_throttled. 2 tokens: the first failure leaves 1, which is not more than half: no retry."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=2, token_ratio=0.5))
    call = Call(cluster, plan(RetryPolicy()), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert ended(call.on_outcome(1, UNAVAILABLE, now=1.0)) is UNAVAILABLE
    assert "retryThrottling" in call.verdict
    assert cluster.refusals == 1


def test_throttling_counts_what_might_be_retried() -> None:
    """Retryable statuses, also on the last attempt, and pushbacks that forbid a retry; no other failure."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=10, token_ratio=0.5))
    throttle = cluster.throttle
    assert throttle is not None

    def after(outcome: Outcome, policy: RetryPolicy | None = None) -> float:
        call = Call(cluster, plan(policy or RetryPolicy(max_attempts=2)), "/s/M")  # type: ignore[arg-type]
        call.begin(now=0.0)
        call.on_outcome(1, outcome, now=0.0)
        call.on_cancel(UNAVAILABLE, now=0.0)
        return throttle.tokens

    assert after(Outcome("NOT_FOUND")) == 10
    assert after(UNAVAILABLE) == 9
    assert after(Outcome("NOT_FOUND", pushback=-1.0)) == 8
    assert after(Outcome("UNAVAILABLE", refused=True)) == 8  # a transparent retry does not count
    assert after(OK) == 8.5


def test_a_throttled_call_succeeds_as_any_other() -> None:
    """Only retries are throttled, and successes add tokens."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=2, token_ratio=1.0))
    for expected in ("finish", "finish", "start"):
        call = Call(cluster, plan(RetryPolicy()), "/s/M")  # type: ignore[arg-type]
        assert brief(call.begin(now=0.0)) == ["start 1 a first"]
        if expected == "start":
            assert brief(call.on_outcome(1, OK, now=0.1)) == ["finish 1 OK"]
        else:
            assert brief(call.on_outcome(1, UNAVAILABLE, now=0.1)) == ["finish 1 UNAVAILABLE"]
    assert cluster.throttle is not None
    assert cluster.throttle.tokens == 1


def test_hedging_throttled_by_tokens() -> None:
    """Java: hedging_throttledByOtherCall. No copies while tokens are short; the original continues."""
    cluster = ScriptedCluster(A, throttling=RetryThrottling(max_tokens=2, token_ratio=0.5))
    assert cluster.throttle is not None
    cluster.throttle.failed()
    call = HedgedCall(cluster, plan(HedgingPolicy(hedging_delay=1.0)), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert call.on_timer(now=1.0) == ()
    assert brief(call.on_outcome(1, OK, now=2.0)) == ["finish 1 OK"]


def test_a_fatal_failure_of_a_copy_takes_no_token() -> None:
    """ "retryable or non-fatal": gRFC A6."""
    cluster = ScriptedCluster(A, B, throttling=RetryThrottling(max_tokens=10, token_ratio=0.5))
    call = HedgedCall(cluster, plan(HedgingPolicy(hedging_delay=1.0)), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    call.on_timer(now=1.0)
    call.on_outcome(1, UNAVAILABLE, now=1.5)
    assert cluster.throttle is not None
    assert cluster.throttle.tokens == 9
    call.on_outcome(2, Outcome("NOT_FOUND"), now=2.0)
    assert cluster.throttle.tokens == 9


# Host re-selection.


class Stubborn(Picker):
    """Returns the first host a number of times before it changes."""

    def __init__(self, hosts: tuple[Host, ...], asked: Counter[str]) -> None:
        self._hosts = hosts
        self._asked = asked

    def pick(self, call: PickInfo, *, now: float) -> Host:
        self._asked["pick"] += 1
        return self._hosts[0]


@pytest.mark.parametrize(("limit", "asked", "again"), [(0, 1, "a"), (1, 2, "a"), (3, 4, "a"), (None, 4, "b")])
def test_host_selection_retry_max_attempts(limit: int | None, asked: int, again: str) -> None:
    """Envoy: the balancer is asked this often for another host, then its choice stands. Without a limit the call goes
    to an untried host."""
    counted: Counter[str] = Counter()

    class Balancer:
        def picker(self, hosts: tuple[Host, ...], *, rng: object) -> Picker:
            return Stubborn(hosts, counted)

    channel = Channel.of("a", "b", balancer=Balancer())  # type: ignore[arg-type]
    call = channel.call(RetryPolicy(host_selection_retry_max_attempts=limit))
    assert brief(call.begin(now=0.0)) == ["start 1 a first"]
    call.on_outcome(1, UNAVAILABLE, now=0.1)
    counted.clear()
    timer = call.next_timer()
    assert timer is not None
    assert brief(call.on_timer(now=timer)) == [f"start 2 {again} retry"]
    assert counted["pick"] == asked


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("per_attempt_idle_timeout", 0),
        ("retriable_headers", "x-state"),
        ("retriable_headers", ("X-State",)),
        ("retriable_headers", (("x-state", 1),)),
        ("reset_headers", (("retry-after", "minutes"),)),
        ("reset_headers", ("retry-after",)),
        ("max_reset_interval", -1),
        ("host_selection_retry_max_attempts", -1),
    ],
)
def test_what_is_refused(field: str, value: object) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError) as error:
        RetryPolicy(**{field: value})  # type: ignore[arg-type]
    assert error.value.field == field


def test_the_back_off_begins_anew_after_a_pushback() -> None:
    """Envoy: backoff_strategy_test, reset; gRFC A6: "the sequence is reset". Base 5 ms: bounds 5, 10, then 5 again."""
    policy = RetryPolicy(max_attempts=9, initial_backoff=0.005, max_backoff=0.1)
    retries = Retries(policy, Draws(1.0), lambda _: None)
    attempt = AttemptRecord(1, A, None, 0.0)
    outcomes = [UNAVAILABLE, UNAVAILABLE, Outcome("UNAVAILABLE", pushback=0.7), UNAVAILABLE]
    waits = [retries.decide(attempt, outcome, count=1, elapsed=0.0, now=0.0) for outcome in outcomes]
    assert waits == pytest.approx([0.005, 0.01, 0.7, 0.005])


def test_the_hedge_after_the_only_copy_failed_is_held_back_too() -> None:
    """Nothing is retried or hedged while tokens are short: gRFC A6."""
    cluster = ScriptedCluster(A, B, throttling=RetryThrottling(max_tokens=2, token_ratio=0.5))
    call = HedgedCall(cluster, plan(HedgingPolicy(hedging_delay=1.0)), "/s/M")  # type: ignore[arg-type]
    call.begin(now=0.0)
    assert brief(call.on_outcome(1, UNAVAILABLE, now=0.5)) == ["finish 1 UNAVAILABLE"]
    assert "retryThrottling" in call.verdict
