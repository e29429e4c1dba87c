"""The request stream of a call: read once from the application, sent by each attempt."""

import asyncio
import logging
from collections.abc import AsyncIterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, final

import grpc.aio

from meshlib._aio.waiting import Condition
from meshlib._control.methods import Method
from meshlib._core.attempts.replay import Replay

if TYPE_CHECKING:
    from meshlib._aio.engine import Engine

__all__ = ["MIXED", "Feed", "Requests", "serialized"]

_log = logging.getLogger("meshlib")

MIXED: Final = "The iterator and read/write APIs may not be mixed on a single RPC."
FINISHED: Final = "RPC already finished."
HALF_CLOSED: Final = 'RPC is half closed after calling "done_writing".'
"""grpc.aio's own words."""


def serialized(request: Any, method: Method) -> Any:
    """The request as bytes, serialized once for all attempts.

    A failure of the serializer is logged. The result is None, which is sent as an empty message, as in grpc.aio.
    """
    if method.serializer is None:
        return request
    try:
        return method.serializer(request)
    except Exception:  # noqa: BLE001 - it is the application's
        _log.exception("%s: the request serializer raised; an empty message is sent, as in grpc.aio", method.name)
        return None


@final
class Feed:
    """The requests for one attempt, starting with the first one of the call. A grpc.aio task iterates over them."""

    __slots__ = ("_requests", "index", "n")

    def __init__(self, requests: "Requests", n: int) -> None:
        self._requests = requests
        self.n = n
        self.index = 0

    def __aiter__(self) -> "Feed":
        return self

    async def __anext__(self) -> Any:
        try:
            requests, replay = self._requests, self._requests.replay
            requests.sent(self)  # all earlier ones, since grpc.aio pulls the next one
            while True:
                seen = requests.notified
                if self.index < replay.end:
                    message = replay[self.index]
                    self.index += 1
                    return message
                if replay.half_closed or not requests.wanted(self.n):
                    requests.told_all()
                    raise StopAsyncIteration
                await requests.more(seen)
        except StopAsyncIteration:
            raise
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException:  # raised by a signal handler: the sending task ends, and so must the call
            self._requests.cut_short()
            raise


@final
class Requests:
    """The requests of one call: pulled from the application's iterator, or written by it.

    At most one task pulls, and only when an attempt needs a request. If that attempt is abandoned meanwhile, the next
    one gets the request.

    Args:
        engine: the call.
        method: has the serializer.
        iterator: of the application; None: the application writes.
        limit: bytes kept for another attempt.
        context: the caller's, for the iterator.
    """

    def __init__(self, engine: "Engine", method: Method, iterator: Any, limit: int, context: Context) -> None:
        self.replay = Replay(limit)
        self._engine: Engine | None = engine
        """None once the call has ended: that breaks the cycle of the two."""
        self._method = method
        self._iterator = iterator
        self._written = iterator is None
        self._context = context
        self._pull: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._condition = Condition(engine.loop)
        self._sent = 0
        self._told = False

    @property
    def half_closed(self) -> bool:
        """Whether the stream of requests has ended."""
        return self.replay.half_closed

    @property
    def notified(self) -> int:
        """Number of changes, for :meth:`more`."""
        return self._condition.notified

    def feed(self, n: int) -> Feed:
        """All requests, for attempt ``n``."""
        return Feed(self, n)

    def sent(self, feed: Feed) -> None:
        """Note that every message that ``feed`` returned has been sent."""
        engine, replay = self._engine, self.replay
        if engine is None:
            return
        if feed.index and not replay.replayable and not engine.call.committed and engine.counts(feed.n):
            engine.commit(feed.n, "buffer")
        if engine.call.committed == feed.n:
            replay.drop(feed.index)
        if feed.index > self._sent:
            self._sent = feed.index
            self._condition.notify()

    def told_all(self) -> None:
        """Note that an attempt has every message, and the end of the stream."""
        self._told = True
        self._condition.notify()

    def cut_short(self) -> None:
        """End the call after an exception in a sending task."""
        if self._engine is not None:
            self._engine.cut_short()

    def wanted(self, n: int) -> bool:
        """Whether attempt ``n`` is in flight."""
        engine = self._engine
        return engine is not None and engine.call.attempts[n - 1].outcome is None

    async def more(self, seen: int) -> None:
        """Wait for another message, or the end, since the caller read ``seen`` from :attr:`notified`."""
        self._asked.set()  # before the task, which may be an eager one
        if self._pull is None and not self._written:
            self._pull = asyncio.get_running_loop().create_task(self._consume(), context=self._context)
            self._pull.add_done_callback(self._pulled)
            if self._engine is None:  # a signal handler or a finalizer has ended the call just now
                self._pull.cancel()
        await self._condition.wait(seen)

    async def write(self, request: Any) -> None:
        """Send a message for the application's ``write()``; return once an attempt has accepted it.

        Raises:
            grpc.aio.UsageError: the call was given an iterator.
            asyncio.InvalidStateError: the call has ended, or ``done_writing`` was called.
            grpc.aio.AioRpcError: the call ended meanwhile.
        """
        engine = self._engine
        if not self._written:
            raise grpc.aio.UsageError(MIXED)
        if engine is None:
            raise asyncio.InvalidStateError(FINISHED)
        if self.replay.half_closed:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        data = serialized(request, self._method)
        try:
            self.replay.append(data)
            mine = self.replay.end
            self._condition.notify()
            while True:
                seen = self._condition.notified
                if self._sent >= mine:
                    return
                if engine.outcome is not None:
                    await engine.raise_for_status()
                    return
                await self._condition.wait(seen)
        except BaseException:  # cancelled, or raised by a signal handler
            engine.cancel()
            raise

    async def done_writing(self) -> None:
        """End the stream for the application's ``done_writing()``; return when an attempt has received the end.

        Raises:
            grpc.aio.UsageError: the call was given an iterator.
        """
        if not self._written:
            raise grpc.aio.UsageError(MIXED)
        if self._engine is None or self.replay.half_closed:
            return
        try:
            self._close()
            while True:
                seen = self._condition.notified
                if self._told or self._engine is None:
                    return
                await self._condition.wait(seen)
        except BaseException:  # cancelled, or raised by a signal handler
            self._cancel()
            raise

    def left(self) -> None:
        """Wake all waiters after the end of an attempt; after the end of the call, stop pulling."""
        if self._engine is not None and self._engine.outcome is not None:
            if self._pull is not None:
                self._pull.cancel()
            self._engine = None
            self._asked.set()  # for a task that an exception kept from being stored here
        self._condition.notify()

    async def _consume(self) -> None:
        try:
            if isinstance(self._iterator, AsyncIterable):
                async for request in self._iterator:
                    await self._take(request)
            else:
                for request in self._iterator:
                    await self._take(request)
            self._close()
        except Exception:  # noqa: BLE001 - it is the application's, and ends its call as in grpc.aio
            _log.debug("%s: the request iterator raised", self._method.name, exc_info=True)
            self._cancel()
        except BaseException:  # cancelled, or raised by a signal handler
            self._cancel()
            raise

    async def _take(self, request: Any) -> None:
        self._asked.clear()
        self.replay.append(serialized(request, self._method))
        self._condition.notify()
        if self._engine is not None:
            await self._asked.wait()
        if self._engine is None:
            raise asyncio.CancelledError

    def _pulled(self, task: "asyncio.Task[None]") -> None:
        """End the call if the task was interrupted before its first line."""
        if not task.cancelled() and task.exception() is not None:
            self._cancel()

    def _cancel(self) -> None:
        if self._engine is not None:
            self._engine.cancel()

    def _close(self) -> None:
        self.replay.half_closed = True
        self._condition.notify()
