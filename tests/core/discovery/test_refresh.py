"""The schedule of resolutions, and the effect of their results. Each test sets the time."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.discovery.refresh import Refresh
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Endpoint, Resolution

A, B, C = (Endpoint(address=f"127.0.0.1:{port}") for port in (1, 2, 3))


def machine(rng: Random, *, allow_empty: bool = False) -> Refresh:
    """The machine with the defaults of DNS."""
    return Refresh(rng=rng, floor=1.0, ceiling=30.0, allow_empty=allow_empty)


def answered(refresh: Refresh, *endpoints: Endpoint, ttl: float | None = 5.0, now: float = 0.0) -> object:
    """Begin and answer a resolution in the same instant."""
    refresh.begin(now=now)
    return refresh.on_answer(Resolution(endpoints=endpoints, ttl=ttl), now=now)


def due_in(refresh: Refresh, *, now: float = 0.0) -> float:
    """Seconds to the next resolution."""
    at = refresh.next_timer()
    assert at is not None
    return at - now


def test_the_first_question_is_due_at_once(rng: Random) -> None:
    """The first resolution is due at any ``now``; while it is in progress no other is due."""
    refresh = machine(rng)
    assert refresh.next_timer() == -math.inf
    assert refresh.begin(now=-1e9) is None
    assert refresh.asking
    assert refresh.next_timer() is None


@pytest.mark.parametrize(
    ("ttl", "least", "most"),
    [
        (0.0, 1.0, 1.1),
        (0.25, 1.0, 1.1),
        (1.0, 1.0, 1.1),
        (4.0, 4.0, 4.4),
        (5.0, 5.0, 5.5),
        (20.0, 20.0, 20.5),
        (30.0, 30.0, 30.5),
        (86400.0, 30.0, 30.5),
    ],
)
def test_asked_again_at_the_ttl(rng: Random, ttl: float, least: float, most: float) -> None:
    """TTL + U[0, min(0.1 TTL, 0.5 s)], floor 1 s, ceiling 30 s; the jitter is used."""
    drawn = set()
    for _ in range(200):
        refresh = machine(rng)
        answered(refresh, A, ttl=ttl, now=100.0)
        delay = due_in(refresh, now=100.0)
        assert least <= delay <= most
        drawn.add(delay)
    assert len(drawn) > 100


def test_no_ttl_means_only_for_a_reason(rng: Random) -> None:
    """With ttl None the next resolution needs a failure, ``hurry`` or ``resolve_now``."""
    refresh = machine(rng)
    answered(refresh, A, ttl=None)
    assert refresh.next_timer() is None
    refresh.hurry(now=50.0)
    assert refresh.next_timer() == 50.0


def test_a_watch_that_waited_is_put_again_at_once(rng: Random) -> None:
    """The floor is between the starts of two resolutions: a long poll with ttl 0 misses no change because of it."""
    refresh = machine(rng)
    refresh.begin(now=0.0)
    refresh.on_answer(Resolution(endpoints=(A,), ttl=0.0), now=20.0)
    assert refresh.next_timer() == 20.0
    refresh.begin(now=20.0)
    refresh.on_answer(Resolution(endpoints=(B,), ttl=0.0), now=20.25)
    assert 0.75 <= due_in(refresh, now=20.25) <= 0.85


def test_the_resolver_is_told_the_last_good_answer(rng: Random) -> None:
    """``begin`` returns the ``previous`` argument of the resolver."""
    refresh = machine(rng)
    answered(refresh, A)
    refresh.begin(now=5.0)
    refresh.on_failure(ResolveError("no"), now=5.0)
    assert refresh.begin(now=7.0) == Resolution(endpoints=(A,), ttl=5.0)


def test_equal_answers_change_nothing(rng: Random) -> None:
    """Answers are compared as sets: the order of records does not matter; a weight does."""
    refresh = machine(rng)
    assert answered(refresh, A, B) == Resolution(endpoints=(A, B), ttl=5.0)
    assert answered(refresh, B, A, now=5.0) is None
    assert answered(refresh, A, B, ttl=9.0, now=10.0) is None
    heavier = Endpoint(address=A.address, weight=3)
    assert answered(refresh, heavier, B, now=20.0) == Resolution(endpoints=(heavier, B), ttl=5.0)


def test_a_failure_keeps_the_last_good_answer(rng: Random) -> None:
    """The endpoints stay and the error is reported; the same answer afterwards is reported again, to end the
    failure."""
    refresh = machine(rng)
    answered(refresh, A)
    refresh.begin(now=5.0)
    error = ResolveError("SERVFAIL")
    assert refresh.on_failure(error, now=5.0) is error
    assert (refresh.current, refresh.error) == (Resolution(endpoints=(A,), ttl=5.0), error)
    assert answered(refresh, A, now=6.0) == Resolution(endpoints=(A,), ttl=5.0)
    assert refresh.error is None
    assert answered(refresh, A, now=11.0) is None


def test_an_empty_answer_is_a_failure(rng: Random) -> None:
    """An empty answer keeps the last good one and backs off."""
    refresh = machine(rng)
    answered(refresh, A)
    told = answered(refresh, now=5.0)
    assert isinstance(told, ResolveError)
    assert told.absent
    assert refresh.current == Resolution(endpoints=(A,), ttl=5.0)
    assert 1.0 <= due_in(refresh, now=5.0) <= 1.2


def test_an_empty_answer_may_be_believed(rng: Random) -> None:
    """With ``allow_empty`` it removes all endpoints, once."""
    refresh = machine(rng, allow_empty=True)
    answered(refresh, A)
    assert answered(refresh, now=5.0) == Resolution(endpoints=(), ttl=5.0)
    assert refresh.error is None
    assert answered(refresh, now=10.0) is None


def test_failures_back_off(rng: Random) -> None:
    """1, 2, 4, 8, 16, 30, 30 s, each +- 20 % within 1 to 30 s; a good answer resets the back-off."""
    refresh, now = machine(rng), 0.0
    for base in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        refresh.begin(now=now)
        refresh.on_failure(ResolveError("no"), now=now)
        delay = due_in(refresh, now=now)
        assert max(1.0, base * 0.8) <= delay <= min(30.0, base * 1.2)
        now += delay
    answered(refresh, A, now=now)
    refresh.begin(now=now)
    refresh.on_failure(ResolveError("no"), now=now)
    assert due_in(refresh, now=now) <= 1.2


def test_failures_are_jittered_even_at_the_cap(rng: Random) -> None:
    """A thousand clients of a dead name server do not retry in step."""
    drawn = set()
    for _ in range(100):
        refresh = machine(rng)
        for _ in range(2000):
            refresh.begin(now=0.0)
            refresh.on_failure(ResolveError("no"), now=0.0)
        drawn.add(due_in(refresh))
    assert len(drawn) > 90
    assert 24.0 <= min(drawn) <= max(drawn) <= 30.0


def test_a_failing_host_asks_at_once(rng: Random) -> None:
    """``hurry`` makes the next resolution due now, but not within a floor after the last."""
    refresh = machine(rng)
    answered(refresh, A, ttl=20.0, now=100.0)
    refresh.hurry(now=100.2)
    assert refresh.next_timer() == 101.0
    refresh.hurry(now=100.4)
    assert refresh.next_timer() == 101.0
    answered(refresh, A, ttl=20.0, now=101.0)
    refresh.hurry(now=105.0)
    assert refresh.next_timer() == 105.0


def test_a_failing_host_never_delays_the_question(rng: Random) -> None:
    """``hurry`` a moment before the TTL ends changes nothing."""
    refresh = machine(rng)
    answered(refresh, A, ttl=1.0, now=100.0)
    at = refresh.next_timer()
    assert at is not None
    refresh.hurry(now=at + 1.0)
    assert refresh.next_timer() == at


def test_hurry_cuts_a_back_off_short_but_does_not_forget_it(rng: Random) -> None:
    """Hosts that fail while DNS is down cause one resolution per floor; the back-off goes on growing."""
    refresh, now = machine(rng), 0.0
    for _ in range(6):
        refresh.begin(now=now)
        refresh.on_failure(ResolveError("no"), now=now)
    refresh.hurry(now=0.5)
    assert refresh.next_timer() == 1.0
    refresh.begin(now=1.0)
    refresh.on_failure(ResolveError("no"), now=1.0)
    assert due_in(refresh, now=1.0) >= 24.0


def test_resolve_now_knows_no_floor(rng: Random) -> None:
    """An explicit request is served at once, unless a resolution is in progress."""
    refresh = machine(rng)
    answered(refresh, A, now=100.0)
    refresh.resolve_now(now=100.1)
    assert refresh.next_timer() == 100.1
    refresh.begin(now=100.1)
    refresh.resolve_now(now=100.2)
    refresh.hurry(now=100.2)
    assert refresh.next_timer() is None
    refresh.on_answer(Resolution(endpoints=(A,), ttl=5.0), now=100.3)
    assert due_in(refresh, now=100.3) >= 5.0


def test_an_abandoned_question_is_due_at_once(rng: Random) -> None:
    """A subscriber after a cancelled resolution waits for no TTL."""
    refresh = machine(rng)
    answered(refresh, A, now=100.0)
    refresh.begin(now=105.0)
    refresh.abandon()
    assert refresh.next_timer() == -math.inf
    assert refresh.current is not None


def test_what_failed_for_those_who_left_says_nothing_to_those_who_come(rng: Random) -> None:
    """A channel opened after another to the same name was closed gets only the result of its own resolution."""
    refresh = machine(rng)
    refresh.begin(now=100.0)
    refresh.on_failure(ResolveError("no"), now=100.0)
    refresh.abandon()
    assert refresh.error is None


@given(
    seed=st.integers(0, 2**32),
    script=st.lists(
        st.tuples(
            st.sampled_from(["answer", "empty", "fail", "hurry", "resolve_now"]),
            st.floats(0, 100),
            st.one_of(st.none(), st.floats(0, 1e6)),
        ),
        max_size=40,
    ),
)
def test_never_asked_more_often_than_the_floor(seed: int, script: list[tuple[str, float, float | None]]) -> None:
    """In any order: two resolutions are a floor apart unless explicitly requested, the last good answer stays, and with
    a TTL the next resolution is at most ceiling and jitter away."""
    refresh, now, last, in_person = machine(Random(seed)), 0.0, -math.inf, False
    for what, wait, ttl in script:
        now += wait
        due = refresh.next_timer()
        if due is not None and due <= now:
            assert in_person or now - last >= 1.0 - 1e-9
            refresh.begin(now=now)
            last, in_person = now, False
        good = refresh.current
        match what:
            case "hurry":
                refresh.hurry(now=now)
            case "resolve_now":
                refresh.resolve_now(now=now)
                in_person = not refresh.asking
            case "answer" if refresh.asking:
                refresh.on_answer(Resolution(endpoints=(C,), ttl=ttl), now=now)
                assert ttl is None or due_in(refresh, now=now) <= 30.5
            case "empty" if refresh.asking:
                refresh.on_answer(Resolution(endpoints=(), ttl=ttl), now=now)
                assert refresh.current == good
            case "fail" if refresh.asking:
                refresh.on_failure(ResolveError("no"), now=now)
                assert refresh.current == good
                assert due_in(refresh, now=now) <= 30.0
