"""One shared resolution for all channels of a loop with equal targets: its schedule, its reports, its end."""

import asyncio
import logging
from random import Random

import pytest
from tests.control.resolving import NAME, TARGET, A, B, Channel, Clock, Scripted, Virtually, found, resolutions

from meshlib._control.sources import source
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.target import parse_target
from meshlib.testing import flush_logs


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
