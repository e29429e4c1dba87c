"""Channels that join or leave a shared resolution."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from tests.control.resolving import TARGET, A, B, Channel, Clock, Scripted, Virtually, found, resolutions

from meshlib._control.sources import source
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Resolution
from meshlib.testing import flush_logs


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
