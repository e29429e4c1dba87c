"""One shared resolution for all channels of a loop with equal targets: its schedule, its reports, its end."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from meshlib._control.shared import Resolutions, SharedResolution
from meshlib._control.sources import source
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.target import parse_target
from meshlib.testing import flush_logs

Clock = Callable[[], float]
Virtually = Callable[[Callable[[Clock], Coroutine[Any, Any, None]]], None]

A, B = Endpoint(address="127.0.0.1:1"), Endpoint(address="127.0.0.1:2")


class Scripted:
    """A user's resolver with scripted answers that records each call and its time."""

    def __init__(self, clock: Clock, *answers: object) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.asked: list[tuple[float, Resolution | None]] = []

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the next answer of the script; the last one repeats."""
        self.asked.append((self.clock(), previous))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = await answer()
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Resolution) or answer is None
        return answer  # type: ignore[return-value]

    @property
    def times(self) -> list[float]:
        """Seconds between the resolutions."""
        moments = [moment for moment, _ in self.asked]
        return [round(later - earlier, 3) for earlier, later in pairwise(moments)]


class Channel:
    """Records the reports to a channel."""

    def __init__(self, shared: SharedResolution) -> None:
        self.heard: list[object] = []
        self.leave = shared.subscribe(lambda resolution: self.heard.append(resolution.endpoints), self.heard.append)


def resolutions(clock: Clock, rng: Random) -> Resolutions:
    """The table of a loop, with the test's own environment."""
    return Resolutions(clock=clock, rng=rng, environ={})


def found(*endpoints: Endpoint, ttl: float | None = 10.0) -> Resolution:
    """A successful resolution."""
    return Resolution(endpoints=endpoints, ttl=ttl)


NAME = f"{__name__}.Scripted"
TARGET = parse_target("svc-a:1")


def test_asked_at_the_ttl_and_told_what_changed(virtually: Virtually, rng: Random) -> None:
    """Resolved at once and after each TTL, with the last answer; reported when the endpoints change."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, found(A), found(A), found(A, B, ttl=None))
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        channel = Channel(shared)
        assert (shared.asked_at, shared.resolution) == (None, None)
        await asyncio.sleep(1000)
        assert [previous for _, previous in resolver.asked] == [None, found(A), found(A)]
        assert all(10.0 <= seconds <= 10.5 for seconds in resolver.times)
        assert channel.heard == [(A,), (A, B)]
        assert shared.resolution == found(A, B, ttl=None)
        assert (shared.asked_at, shared.next_at) == (resolver.asked[-1][0], None)
        channel.leave()

    virtually(main)


def test_channels_share_one_resolution(virtually: Virtually, rng: Random) -> None:
    """The second channel gets the first one's answer at once, without a resolution."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, found(A))
        table = resolutions(clock, rng)
        first = Channel(table.get(source(TARGET, DnsPolicy(), resolver)))
        await asyncio.sleep(5)
        second = Channel(table.get(source(parse_target("svc-a:1"), DnsPolicy(), resolver)))
        assert second.heard == first.heard == [(A,)]
        assert len(resolver.asked) == 1
        first.leave()
        await asyncio.sleep(10)
        assert len(resolver.asked) == 2
        second.leave()
        second.leave()
        await asyncio.sleep(100)
        assert len(resolver.asked) == 2

    virtually(main)


def test_what_is_shared(virtually: Virtually, rng: Random) -> None:
    """Equal targets and policies; another resolver object, policy or port needs another resolution."""

    async def main(clock: Clock) -> None:
        table = resolutions(clock, rng)
        one, other = Scripted(clock, found(A)), Scripted(clock, found(A))
        kept = table.get(source(TARGET, DnsPolicy(), one))
        assert table.get(source(TARGET, DnsPolicy(), one)) is kept
        assert table.get(source(TARGET, DnsPolicy(), other)) is not kept
        assert table.get(source(TARGET, DnsPolicy(family="v6"), one)) is not kept
        assert table.get(source(parse_target("svc-a:2"), DnsPolicy(), one)) is not kept
        plain = table.get(source(parse_target("svc-a"), DnsPolicy()))
        assert table.get(source(parse_target("svc-a"), DnsPolicy(nameservers=()))) is plain
        assert table.get(source(parse_target("svc-a", secure=True), DnsPolicy())) is not plain
        assert table.get(source(parse_target("svc-a"), DnsPolicy(nameservers=("127.0.0.1",)))) is not plain

    virtually(main)


def test_a_failing_resolver_is_asked_again_with_a_back_off(
    virtually: Virtually, rng: Random, caplog: pytest.LogCaptureFixture
) -> None:
    """The endpoints stay. Each failure is reported, and logged once with the plug-in's name until it changes."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(
            clock, found(A), OSError("down"), OSError("down"), OSError("down"), OSError("worse"), found(A), found(A)
        )
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        channel = Channel(shared)
        await asyncio.sleep(40)
        down, worse = (f"resolver {NAME} raised OSError: {what}" for what in ("down", "worse"))
        assert channel.heard == [(A,), down, down, down, worse, (A,)]
        waits = resolver.times[1:5]
        assert all(0.8 * base <= wait <= 1.2 * base for wait, base in zip(waits, (1, 2, 4, 8), strict=True))
        channel.leave()

    with caplog.at_level(logging.INFO, "meshlib"):
        virtually(main)
    flush_logs()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "WARNING", "INFO"]
    kept = "svc-a:1: resolution failed, last good endpoints kept"
    assert told[0][1] == f"{kept}: resolver={NAME}, reason=resolver {NAME} raised OSError: down"
    assert "worse" in told[1][1]
    assert caplog.records[0].exc_info is not None


def test_an_empty_answer_keeps_the_endpoints(virtually: Virtually, rng: Random) -> None:
    """Unless the policy accepts it."""

    async def main(clock: Clock) -> None:
        table = resolutions(clock, rng)
        keeping = Channel(table.get(source(TARGET, DnsPolicy(), Scripted(clock, found(A), found()))))
        policy = DnsPolicy(allow_empty=True)
        believing = Channel(table.get(source(TARGET, policy, Scripted(clock, found(A), found()))))
        await asyncio.sleep(11)
        assert keeping.heard == [(A,), "the resolver returned no endpoints"]
        assert believing.heard == [(A,), ()]
        keeping.leave()
        believing.leave()

    virtually(main)


def test_a_failing_host_asks_at_once_but_not_more_often_than_the_floor(virtually: Virtually, rng: Random) -> None:
    """Any number of hosts may fail in the same second."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, found(A, ttl=30.0))
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        channel = Channel(shared)
        await asyncio.sleep(0.25)
        for _ in range(5):
            shared.hurry()
        await asyncio.sleep(0.5)
        assert len(resolver.asked) == 1
        await asyncio.sleep(0.5)
        assert resolver.times == [1.0]
        await asyncio.sleep(5)
        shared.hurry()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert resolver.times == [1.0, 5.25]
        channel.leave()

    virtually(main)


def test_resolve_now(virtually: Virtually, rng: Random) -> None:
    """At once, despite the TTL and the floor; two requests at once are one resolution."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, found(A, ttl=None))
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        channel = Channel(shared)
        await asyncio.sleep(0.125)
        shared.resolve_now()
        shared.resolve_now()
        await asyncio.sleep(100)
        assert resolver.times == [0.125]
        channel.leave()

    virtually(main)


def test_a_long_poll_is_put_again_at_once(virtually: Virtually, rng: Random) -> None:
    """A resolver that waits for a change is one pending resolution; the change is reported when it returns."""

    async def main(clock: Clock) -> None:
        async def later() -> Resolution:
            await asyncio.sleep(100)
            return found(B, ttl=0.0)

        async def never() -> Resolution:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        resolver = Scripted(clock, found(A, ttl=0.0), later, never)
        channel = Channel(resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver)))
        await asyncio.sleep(200)
        assert channel.heard == [(A,), (B,)]
        assert [previous for _, previous in resolver.asked] == [None, found(A, ttl=0.0), found(B, ttl=0.0)]
        assert 1.0 <= resolver.times[0] <= 1.1
        assert resolver.times[1] == 100.0
        channel.leave()

    virtually(main)


def test_the_ttl_of_a_plugin_is_obeyed(virtually: Virtually, rng: Random) -> None:
    """A resolver with a TTL of an hour is not called before."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, found(A, ttl=3600.0))
        channel = Channel(resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver)))
        await asyncio.sleep(4000)
        assert len(resolver.asked) == 2
        assert 3600.0 <= resolver.times[0] <= 3600.5
        channel.leave()

    virtually(main)


def test_the_last_channel_ends_the_question(virtually: Virtually, rng: Random) -> None:
    """A pending resolution is cancelled; a later channel gets the last answer, and a resolution starts at once."""

    async def main(clock: Clock) -> None:
        cancelled = asyncio.Event()

        async def waits() -> Resolution:
            try:
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
            finally:
                cancelled.set()

        resolver = Scripted(clock, found(A, ttl=0.0), waits, found(B, ttl=None))
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        channel = Channel(shared)
        await asyncio.sleep(2)
        channel.leave()
        await asyncio.sleep(0)
        assert cancelled.is_set()
        again = Channel(shared)
        assert again.heard == [(A,)]
        await asyncio.sleep(1)
        assert again.heard == [(A,), (B,)]
        assert channel.heard == [(A,)]
        again.leave()

    virtually(main)


def test_a_plugin_that_ignores_its_cancellation_counts_no_more(
    virtually: Virtually, rng: Random, caplog: pytest.LogCaptureFixture
) -> None:
    """Its result after its last channel left changes nothing, and closing waits for it only briefly."""

    async def main(clock: Clock) -> None:
        async def stubborn() -> Resolution:
            end = clock() + 50
            while clock() < end:
                try:
                    await asyncio.sleep(end - clock())
                except asyncio.CancelledError:
                    continue
            return found(B)

        resolver = Scripted(clock, stubborn, found(A, ttl=None))
        table = resolutions(clock, rng)
        shared = table.get(source(TARGET, DnsPolicy(), resolver))
        Channel(shared).leave()
        channel = Channel(shared)
        channel.leave()
        await asyncio.sleep(0)
        first = Channel(shared)
        await asyncio.sleep(0.5)
        first.leave()
        second = Channel(shared)
        await asyncio.sleep(100)
        assert second.heard == [(A,)]
        second.leave()

        resolver.answers = [stubborn]
        third = Channel(shared)
        await asyncio.sleep(1)
        start = clock()
        await table.aclose()
        assert clock() - start == pytest.approx(1.0)
        assert third.heard == [(A,)]
        third.leave()
        await asyncio.sleep(100)

    virtually(main)
    flush_logs()
    assert "meshlib resolution svc-a:1: ignored its cancellation" in caplog.text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "returned None, not a meshlib.discovery.Resolution"),
        (found(Endpoint(address="web-1:80")), "returned address 'web-1:80'"),
        (OSError("boom"), "raised OSError: boom"),
        (KeyError(), "raised KeyError"),
        (SystemExit(3), "raised SystemExit: 3"),
        (asyncio.CancelledError(), "raised CancelledError"),
        (TimeoutError(), "raised TimeoutError"),
    ],
)
def test_a_plugin_takes_nothing_down(virtually: Virtually, rng: Random, answer: object, told: str) -> None:
    """Any invalid answer or exception is a failure that names the plug-in, and it is called again."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, answer, found(A, ttl=None))
        channel = Channel(resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver)))
        await asyncio.sleep(5)
        failure, endpoints = channel.heard
        assert str(failure).partition(";")[0] == f"resolver {NAME} {told}"
        assert endpoints == (A,)
        channel.leave()

    virtually(main)


def test_a_channel_that_fails_does_not_hurt_the_others(
    virtually: Virtually, rng: Random, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is logged; the others are notified, and the resolution goes on."""

    def fail(_: object) -> None:
        raise RuntimeError("our own mistake")

    async def main(clock: Clock) -> None:
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), Scripted(clock, found(A), found(B))))
        leave = shared.subscribe(fail, fail)
        channel = Channel(shared)
        await asyncio.sleep(15)
        assert channel.heard == [(A,), (B,)]
        leave()
        channel.leave()

    virtually(main)
    flush_logs()
    assert "our own mistake" in caplog.text


def test_a_channel_may_leave_while_it_is_told(virtually: Virtually, rng: Random) -> None:
    """A channel closed from within its callback gets no more reports, even as the next in line."""

    async def main(clock: Clock) -> None:
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), Scripted(clock, found(A))))
        leave: list[Callable[[], None]] = []
        heard: list[object] = []

        def close_both(resolution: Resolution) -> None:
            heard.append(resolution)
            for each in leave:
                each()

        leave += (shared.subscribe(close_both, heard.append), shared.subscribe(close_both, heard.append))
        await asyncio.sleep(100)
        assert len(heard) == 1

    virtually(main)


def test_a_new_channel_does_not_wait_for_the_back_off(virtually: Virtually, rng: Random) -> None:
    """A new channel starts a resolution, subject to the floor, and gets its result instead of the earlier failure: its
    first call must not end with an error from a back-off ago."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, *[ResolveError("no")] * 6, found(A, ttl=None))
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        first = Channel(shared)
        await asyncio.sleep(40)
        assert len(resolver.asked) == 6
        second = Channel(shared)
        assert second.heard == []
        await asyncio.sleep(0.01)
        assert second.heard == [(A,)]
        first.leave()
        second.leave()

    virtually(main)


def test_new_channels_of_a_name_that_fails_share_the_next_failure(virtually: Virtually, rng: Random) -> None:
    """Any number of them causes at most one resolution per floor; each gets its result, as the first does."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, ResolveError("old"), ResolveError("new"))
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        first = Channel(shared)
        await asyncio.sleep(0.25)
        later = []
        for _ in range(3):
            later.append(Channel(shared))
            await asyncio.sleep(0.125)
        assert [channel.heard for channel in (first, *later)] == [["old"], [], [], []]
        await asyncio.sleep(0.5)
        assert resolver.times == [1.0]
        assert [channel.heard for channel in (first, *later)] == [["old", "new"], ["new"], ["new"], ["new"]]
        for channel in (first, *later):
            channel.leave()

    virtually(main)


def test_a_new_channel_waits_for_the_question_under_way(virtually: Virtually, rng: Random) -> None:
    """No second one starts in parallel."""

    async def main(clock: Clock) -> None:
        async def slow() -> Resolution:
            await asyncio.sleep(100)
            return found(A, ttl=None)

        resolver = Scripted(clock, ResolveError("old"), slow)
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        first = Channel(shared)
        await asyncio.sleep(10)
        second = Channel(shared)
        await asyncio.sleep(50)
        assert second.heard == []
        await asyncio.sleep(50)
        assert second.heard == [(A,)]
        assert len(resolver.asked) == 2
        first.leave()
        second.leave()

    virtually(main)


def test_a_new_channel_gets_the_last_good_answer_at_once(virtually: Virtually, rng: Random) -> None:
    """While the resolver fails, the last endpoints can be called; the failure is reported too."""

    async def main(clock: Clock) -> None:
        resolver = Scripted(clock, found(A), ResolveError("no"))
        shared = resolutions(clock, rng).get(source(TARGET, DnsPolicy(), resolver))
        first = Channel(shared)
        await asyncio.sleep(12)
        second = Channel(shared)
        assert second.heard == [(A,), "no"]
        first.leave()
        second.leave()

    virtually(main)


def test_fixed_targets_are_asked_once(virtually: Virtually, rng: Random) -> None:
    """Addresses, sockets and targets that only grpc understands need no lookup and no second resolution."""

    async def main(clock: Clock) -> None:
        table = resolutions(clock, rng)
        for text, expected in (
            ("ipv4:127.0.0.1:1,127.0.0.1:2", ["127.0.0.1:1", "127.0.0.1:2"]),
            ("ipv6:[::1]:1", ["[::1]:1"]),
            ("127.0.0.1:1", ["127.0.0.1:1"]),
            ("127.0.0.1", ["127.0.0.1:80"]),
            ("static:///127.0.0.1:1", ["127.0.0.1:1"]),
            ("unix:///run/a.sock", ["unix:/run/a.sock"]),
            ("xds:///svc-a", ["xds:///svc-a"]),
        ):
            shared = table.get(source(parse_target(text), DnsPolicy()))
            channel = Channel(shared)
            await asyncio.sleep(100)
            ((*endpoints,),) = channel.heard
            assert [endpoint.address for endpoint in endpoints] == expected
            assert shared.next_at is None
            channel.leave()

    virtually(main)


def test_each_of_a_list_is_its_own_authority(virtually: Virtually, rng: Random) -> None:
    """A list has no common name; a single name is the target's own authority."""

    async def main(clock: Clock) -> None:
        table = resolutions(clock, rng)
        for text, expected in (
            ("static:///127.0.0.1:1,127.0.0.1:2", ["127.0.0.1:1", "127.0.0.1:2"]),
            ("127.0.0.1:1", [None]),
            ("unix:a", [None]),
        ):
            channel = Channel(table.get(source(parse_target(text), DnsPolicy())))
            await asyncio.sleep(1)
            ((*endpoints,),) = channel.heard
            assert [endpoint.authority for endpoint in endpoints] == expected
            channel.leave()

    virtually(main)
