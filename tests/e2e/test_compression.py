"""``compression`` of the channel and of the call, by what is on the wire."""

from typing import Any

import grpc
import pytest
from tests.e2e.aio_world import PATIENCE
from tests.e2e.chaos.relay import Relay
from tests.e2e.kinds import KINDS, METHODS, all_answers, expected, starters
from tests.e2e.load import SHELLS, Shell
from tests.e2e.test_policies import caller

import meshlib
from meshlib.testing import Server, echo

ZEROS = bytes(100_000)
SMALL = 10_000
"""Bytes: far more than headers, settings and 100 KB of zeros in gzip are together, far fewer than the zeros."""

GZIP, DEFLATE, NONE = grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("channel", "call", "compressed"),
    [
        (None, None, False),
        (GZIP, None, True),
        (None, GZIP, True),
        (None, DEFLATE, True),
        (GZIP, NONE, False),
        (NONE, GZIP, True),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
async def test_requests_are_compressed_as_asked(
    shell: Shell, channel: Any, call: Any, compressed: bool, kind: str
) -> None:
    """On the wire they are small or as large as they are; what arrives is the same, and the call beats the channel."""
    options = {} if channel is None else {"compression": channel}
    given = {} if call is None else {"compression": call}
    with Server() as server, Relay(server.address) as relay:
        async with caller(shell, name=f"static:///{relay.address}", **options) as it:
            made = starters(it.channel, shell)[kind]([ZEROS], timeout=PATIENCE, **given)
            assert await all_answers(shell, kind, made) == expected(kind, [ZEROS])
            assert (relay.up < SMALL) is compressed, relay.up


@pytest.mark.parametrize("scope", ["channel", "call"])
@pytest.mark.parametrize("shell", SHELLS)
async def test_retries_are_compressed_too(shell: Shell, scope: str) -> None:
    """Each attempt is as the call was asked to be."""
    options: dict[str, Any] = {"compression": GZIP} if scope == "channel" else {}
    given: dict[str, Any] = {"compression": GZIP} if scope == "call" else {}
    with Server() as server, Relay(server.address) as relay:
        server.fault(code="UNAVAILABLE", after=1, times=2)
        async with caller(shell, name=f"static:///{relay.address}", **options) as it:
            made = starters(it.channel, shell)["unary_unary"]([ZEROS], timeout=PATIENCE, **given)
            assert await all_answers(shell, "unary_unary", made) == [ZEROS]
            assert len(made.mesh.attempts) == 3
            assert relay.up < SMALL
        assert server.calls[echo.UNARY] == 3


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("way", ["__call__", "with_call"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_blocking_calls_are_compressed(kind: str, way: str, compressed: bool) -> None:
    """Those of the sync shell have ways of their own, beside the future's."""
    given: dict[str, Any] = {"compression": GZIP} if compressed else {}
    with Server() as server, Relay(server.address) as relay:
        with meshlib.channel(f"static:///{relay.address}") as channel:
            made = getattr(getattr(channel, kind)(METHODS[kind]), way)
            answer = made(ZEROS if kind == "unary_unary" else iter([ZEROS]), timeout=PATIENCE, **given)
            assert (answer if way == "__call__" else answer[0]) == ZEROS
            assert (relay.up < SMALL) is compressed, relay.up
