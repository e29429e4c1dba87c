"""Thousands of concurrent asyncio calls of all kinds, which fail, are cancelled and late."""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.e2e.aio_world import all_ready, channel_to, in_flight
from tests.e2e.kinds import KINDS, aio_answers, expected, starters
from tests.waiting import aio_until

import meshlib
from meshlib.testing import Server, servers
from meshlib.testing.echo import DELAY_MS

CALLERS, CALLS = 12, 2400
LONG = 3.0
"""Timeout of most calls in seconds: less than leftovers may take to end. An attempt that grpc.aio itself dropped, as
when a write loses the race against the status, is C-core's until its deadline, and cannot be cancelled."""
CODES = frozenset({"UNAVAILABLE", "ABORTED"})


class Stress:
    """The calls and their outcomes."""

    def __init__(self, channel: meshlib.aio.Channel) -> None:
        self.start = starters(channel, "aio")
        self.ends: Counter[str] = Counter()
        self.told: Counter[int] = Counter()
        self.replayed = 0
        self.wrong: list[object] = []

    async def caller(self, rng: Random, numbers: range) -> None:
        """Make one call after the other."""
        for number in numbers:
            await self._call(rng, number)

    async def _call(self, rng: Random, number: int) -> None:
        kind = rng.choice(KINDS)
        requests = [b"%d.%d " % (number, index) for index in range(rng.randrange(1, 8))]
        timeout = rng.choice([LONG, LONG, LONG, 0.02])
        delay = rng.choice(["0"] * 8 + ["5", "30"])
        call = self.start[kind](requests, timeout=timeout, metadata=((DELAY_MS, delay),))
        call.add_done_callback(lambda _: self.told.update([number]))
        what = rng.random()
        if what < 0.1:
            call.cancel()
        elif what < 0.2:
            asyncio.get_running_loop().call_later(rng.random() * 0.02, call.cancel)
        got: list[bytes] = []
        end = await self._read(rng, kind, call, got)
        self.ends[end] += 1
        whole = expected(kind, requests)
        if got != whole[: len(got)] or (end == "OK" and got != whole):
            self.wrong.append((kind, end, got, requests))
        if end == "OK" and len(call.mesh.attempts) > 1:
            self.replayed += 1

    async def _read(self, rng: Random, kind: str, call: Any, got: list[bytes]) -> str:
        """Read the messages, and return how the call ended."""
        try:
            async for message in aio_answers(kind, call):
                got.append(message)
                if rng.random() < 0.02:
                    call.cancel()
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
        except grpc.aio.AioRpcError as error:
            if error.code() is not await call.code():
                self.wrong.append((kind, error.code(), await call.code(), error.debug_error_string()))
        code: grpc.StatusCode = await call.code()
        return code.name


@pytest.mark.timeout(120)
async def test_stress(rng: Random) -> None:
    """A call always ends once: its callback runs once, nothing stays counted, and every message is delivered once and
    in order, even after replays."""
    retry = meshlib.RetryPolicy(max_attempts=4, per_attempt_timeout=2.0, retryable_status_codes=CODES)
    with servers(3) as some:
        for server in some:
            server.fault(code="UNAVAILABLE", times=3)
        async with channel_to(*some, retry=retry, retry_budget=None) as channel:
            await all_ready(channel, 3)
            stress = Stress(channel)
            share = CALLS // CALLERS
            trouble = asyncio.ensure_future(_trouble(Random(rng.random()), some))
            async with asyncio.timeout(90), asyncio.TaskGroup() as group:
                for first in range(0, CALLS, share):
                    group.create_task(stress.caller(Random(rng.random()), range(first, first + share)))
            trouble.cancel()
            await asyncio.wait([trouble])
            assert stress.wrong == []
            assert stress.ends.total() == CALLS
            # The number of each depends on the machine; each was requested.
            assert set(stress.ends) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "NOT_FOUND", *CODES}, stress.ends
            assert stress.ends["OK"] > 0
            assert stress.ends["CANCELLED"] > 0
            await aio_until(lambda: len(stress.told) == CALLS, "every callback has come")
            await aio_until(lambda: in_flight(channel) == 0, "places are freed")
            assert set(stress.told.values()) == {1}
            assert stress.replayed > 0
            assert channel.mesh.snapshot().retries_held == 0


async def _trouble(rng: Random, some: list[Server]) -> None:
    """Let calls fail in every way that a server can, until cancelled."""
    while True:
        server = rng.choice(some)
        code = rng.choice(["UNAVAILABLE", "UNAVAILABLE", "ABORTED", "NOT_FOUND", None])
        after = rng.choice([0, 0, 0, 1, 2])
        if code is None:
            server.fault(delay=0.01, after=after, times=1)
        else:
            trailing = rng.choice([(), (("grpc-retry-pushback-ms", "1"),)])
            server.fault(code=code, after=after, times=1, trailing_metadata=trailing)
        await asyncio.sleep(0.003)
