"""Resolvers of an application behind a shared resolution: long polls, invalid answers, and ignored cancellation."""

import asyncio
from random import Random

import pytest
from tests.control.resolving import NAME, TARGET, A, B, Channel, Clock, Scripted, Virtually, found, resolutions

from meshlib._control.sources import source
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib.testing import flush_logs


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
