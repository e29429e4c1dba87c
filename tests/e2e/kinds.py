"""One interface to calls of the four kinds, in both shells."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from tests.e2e.load import Shell

from meshlib.testing import echo

PATIENCE = 10.0  # seconds to wait for a response before a test fails

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
METHODS = {
    "unary_unary": echo.UNARY,
    "unary_stream": echo.SERVER_STREAM,
    "stream_unary": echo.CLIENT_STREAM,
    "stream_stream": echo.BIDI_STREAM,
}


def starters(channel: Any, shell: Shell) -> dict[str, Callable[..., Any]]:
    """Start functions by kind, given the requests; a call with one request uses the first."""

    def starter(kind: str) -> Callable[..., Any]:
        made = getattr(channel, kind)(METHODS[kind])
        if shell == "sync" and kind.endswith("unary"):
            made = made.future
        if kind.startswith("unary"):
            return lambda requests, **options: made(next(iter(requests)), **options)
        return lambda requests, **options: made(iter(requests), **options)

    return {kind: starter(kind) for kind in KINDS}


def expected(kind: str, requests: list[bytes]) -> list[bytes]:
    """The answer of the echo service."""
    return {
        "unary_unary": requests[:1],
        "unary_stream": requests[:1] * 3,
        "stream_unary": [b"".join(requests)],
        "stream_stream": requests,
    }[kind]


def answers(kind: str, call: Any) -> Iterator[bytes]:
    """Yield the messages of a call of the sync shell."""
    if kind.endswith("stream"):
        yield from call
    else:
        yield call.result(PATIENCE)


async def aio_answers(kind: str, call: Any) -> AsyncIterator[bytes]:
    """Yield the messages of an asyncio call."""
    if kind.endswith("stream"):
        async for message in call:
            yield message
    else:
        yield await call


async def all_answers(shell: Shell, kind: str, call: Any) -> list[bytes]:
    """All messages of a started call; raises its error."""
    if shell == "sync":
        return await asyncio.to_thread(lambda: list(answers(kind, call)))
    return [message async for message in aio_answers(kind, call)]


class Requests:
    """A request stream controlled by the test, for a call of either shell."""

    def __init__(self, shell: Shell, *first: bytes) -> None:
        self._shell = shell
        self._queue: queue.Queue[bytes | None] = queue.Queue()
        self._aio: asyncio.Queue[bytes | None] = asyncio.Queue()
        for request in first:
            self.send(request)

    def send(self, request: bytes | None) -> None:
        """Send the next request; None ends the stream. In asyncio, call it on the loop's thread."""
        if self._shell == "sync":
            self._queue.put(request)
        else:
            self._aio.put_nowait(request)

    def iterator(self) -> Any:
        """The iterator passed to the call."""
        return iter(lambda: self._queue.get(timeout=PATIENCE), None) if self._shell == "sync" else self._awaited()

    async def _awaited(self) -> AsyncIterator[bytes]:
        while (request := await self._aio.get()) is not None:
            yield request
