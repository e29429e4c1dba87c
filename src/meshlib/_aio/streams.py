"""Calls with a stream of requests, of responses, or both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Final, final

import grpc
import grpc.aio

from meshlib._adapt.metadata import EMPTY_PATIENCE
from meshlib._aio.engine import Engine
from meshlib._aio.futures import Handle, UnaryResponse
from meshlib._aio.requests import MIXED, Requests, serialized
from meshlib._aio.runtime import ChannelHandle
from meshlib._aio.waiting import completed, guarded
from meshlib._control.invocation import Invocation
from meshlib._control.timers import call_at

__all__ = ["StreamStreamCall", "StreamUnaryCall", "UnaryStreamCall"]

EOF: Final = grpc.aio.EOF

Ask = Callable[[int], Coroutine[Any, Any, Any]]
Accept = Callable[[int, Any], bool]


class _Streaming(Engine):
    """Common part of calls with a stream: headers before the end, and reading from attempts in flight."""

    requests: Requests | None = None

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """The metadata of the attempt that counts; returning it commits the call to that attempt."""

        async def ask(n: int) -> Any:
            metadata = await self.attempts[n].initial_metadata()
            if not metadata:
                await self._shown_for_long(n)
            return metadata

        def accept(n: int, metadata: Any) -> bool:
            if self.outcome is None and self.counts(n):
                if metadata:
                    self.commit(n, "headers")
                return True
            return False

        waits = self.call.streaming and self.call.plan.attempt_limit is not None
        if waits:
            self.call.on_reading(now=self._now())
            self._arm()
        metadata = await self._first(ask, accept)
        if waits and metadata is not None:
            self.call.on_message()
        return await super().initial_metadata() if metadata is None else metadata

    async def _shown_for_long(self, n: int) -> None:
        """Wait until attempt ``n`` surely has no initial metadata: it has ended, or had none for long enough."""
        until = self._now() + EMPTY_PATIENCE
        timer = call_at(self.loop, self._now, until, self._notify, self.context)
        try:
            while True:
                seen = self.condition.notified
                if self.outcome is not None or not self.counts(n) or self.call.committed == n or self._now() >= until:
                    return
                await self.condition.wait(seen)
        finally:
            timer.cancel()

    async def wait_for_connection(self) -> None:
        async def ask(n: int) -> Any:
            await self.attempts[n].wait_for_connection()
            return True

        def accept(n: int, _: Any) -> bool:
            return self.counts(n)

        if await self._first(ask, accept) is None or self.outcome is not None:
            await self.raise_for_status()

    async def _first(self, ask: Ask, accept: Accept) -> Any:
        """The first accepted result of ``ask`` among the attempts; None if the call ends first."""
        condition = self.condition
        while True:
            seen = condition.notified
            if self.outcome is not None:
                return None
            numbers = self.live()
            if not numbers:
                await self._or_cancel(condition.wait(seen))
                continue
            if self.call.plan.hedging is not None and not self.call.committed:
                return await self._race(ask, accept)
            n = numbers[0]
            answer = await self.heard(n, ask(n))
            if answer is not None and accept(n, answer):
                return answer
            seen = condition.notified
            if self.outcome is None and n in self.live():
                # No more messages, and no end: an attempt interceptor may stop reading. The status will follow.
                await self._or_cancel(condition.wait(seen))

    async def heard(self, n: int, answer: Coroutine[Any, Any, Any], *, alone: bool = True) -> Any:
        """The answer of attempt ``n``; None if it ends instead, which is then reported to the machine.

        grpc.aio may swallow the cancellation of the task: if it arrives while an attempt fails, grpc.aio cancels the
        ended attempt and goes on. So requests for cancellation are counted.

        If not ``alone``, this runs in a separate task, whose cancellation does not come from the application.
        """
        task = asyncio.current_task() if alone else None
        before = 0 if task is None else task.cancelling()
        said = None
        try:
            said = await answer
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError:
            if n not in self.given_up:
                self.cancel()
                raise
        except grpc.aio.AioRpcError as error:
            self.attempt_ended(n, error)
        except Exception as error:  # noqa: BLE001 - grpc.aio raises the caller's error, and never ends the call
            self.attempt_ended(n, error)
            self.give_up(n)
        if task is not None and task.cancelling() > before:
            self.cancel()
            raise asyncio.CancelledError
        return said

    async def _race(self, ask: Ask, accept: Accept) -> Any:
        """The first accepted answer of all hedges. Only this needs tasks: it waits for several."""
        tasks: dict[int, asyncio.Task[Any]] = {}
        pending: set[asyncio.Future[Any]] = set()
        try:
            while True:
                waiter = self.condition.waiter()
                try:
                    if self.outcome is not None:
                        return None
                    for n in self.live():
                        if n not in tasks:
                            tasks[n] = self.loop.create_task(self.heard(n, ask(n), alone=False))
                            pending.add(tasks[n])
                    waited = asyncio.wait([*pending, waiter], return_when=asyncio.FIRST_COMPLETED)
                    done, _ = await self._or_cancel(waited)
                finally:
                    self.condition.forget(waiter)
                pending -= done
                for n, task in tasks.items():
                    if task in done and (answer := task.result()) is not None and accept(n, answer):
                        return answer
        finally:
            for task in tasks.values():
                task.cancel()

    async def _or_cancel(self, waited: Awaitable[Any]) -> Any:
        """Await; a task that is cancelled meanwhile cancels the call, as in grpc.aio."""
        try:
            return await waited
        except asyncio.CancelledError:
            self.cancel()
            raise


class _ResponseStream(_Streaming):
    """A call that returns messages."""

    def __init__(self, lease: ChannelHandle, invocation: Invocation) -> None:
        super().__init__(lease, invocation, streaming=True)
        self.data: Any = None
        """The request as bytes; None: ``requests`` has them."""
        self._readers: dict[int, Callable[[], Awaitable[Any]]] = {}
        self.iterated = False

    def request(self, n: int) -> Any:
        return self.data if self.requests is None else self.requests.feed(n)

    def follow(self, n: int, attempt: Any) -> None:
        # Not raised into grpc.aio: its cancel() calls this first, and only then cancels the call of C-core.
        attempt.add_done_callback(guarded(partial(self._on_status, n), self.cut_short, self._raise_later))

    def _raise_later(self, error: BaseException) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(_raise, error)

    def left(self) -> None:
        if self.requests is not None:
            self.requests.left()

    async def next(self) -> Any:
        """The next message, or EOF: then the call has ended or is about to."""
        while True:
            n = self.call.committed
            if n in self.attempts and (self.outcome is None or self.last == n):
                message = await self.heard(n, self._read(n))
                if message is not None:
                    return message[0]
                await self.finished()  # nothing follows the attempt that counts
                return EOF
            if self.outcome is not None:
                return await self._after_end()
            first = await self._first(self._read, self._accept)
            if first is not None:
                return first[0]

    def _accept(self, n: int, message: Any) -> bool:
        """Whether a first message may be returned. It commits the call to its attempt."""
        if message[0] is EOF or not self.counts(n):
            return False
        self.commit(n, "message")
        return True

    async def _after_end(self) -> Any:
        """The next message of the attempt that ended the call, for an application that had not read before."""
        if self.last in self.attempts and not self.locally_cancelled:
            message = await self.heard(self.last, self._read(self.last))
            if message is not None:
                return message[0]
        return EOF

    async def _read(self, n: int) -> Any:
        """One message of attempt ``n`` in a tuple, as a message may be None; None at its end."""
        reader = self._readers.get(n)
        if reader is None:
            attempt = self.attempts[n]
            reader = self._readers[n] = attempt.__aiter__().__anext__ if self.iterated else attempt.read
        if self.call.plan.attempt_limit is not None:
            self.call.on_reading(now=self._now())
            self._arm()
        message = await reader()
        if self.call.plan.attempt_limit is not None:
            self.call.on_message()
        return None if message is EOF else (message,)

    def _on_status(self, n: int, attempt: Any) -> None:
        """Report the end of attempt ``n``. grpc has its status, so the calls here need no wait."""
        try:
            code = completed(attempt.code())
            if code is grpc.StatusCode.OK:
                self.attempt_ended(n, None)
                return
            account = completed(attempt.debug_error_string())
            if code is grpc.StatusCode.CANCELLED and not account:
                # C-core describes every failure, except cancellations from here.
                self.attempt_ended(n, asyncio.CancelledError())
                return
            error = grpc.aio.AioRpcError(
                code,
                completed(attempt.initial_metadata()),
                completed(attempt.trailing_metadata()),
                details=completed(attempt.details()),
                debug_error_string=account,
            )
        except Exception as failure:  # noqa: BLE001 - an attempt interceptor's own
            self.attempt_ended(n, failure)
        else:
            self.attempt_ended(n, error)


def _raise(error: BaseException) -> None:
    raise error


class _RequestStream(UnaryResponse, _Streaming):
    """A call with many requests and one response."""

    def __init__(self, lease: ChannelHandle, invocation: Invocation) -> None:
        super().__init__(lease, invocation, streaming=False)

    def request(self, n: int) -> Any:
        assert self.requests is not None
        return self.requests.feed(n)

    def left(self) -> None:
        assert self.requests is not None
        self.requests.left()


class _Reading(Handle):
    """The responses of a handle."""

    _iterator: AsyncIterator[Any] | None = None
    _reads = False

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._reads:
            raise grpc.aio.UsageError(MIXED)
        if self._iterator is None:
            self._engine.iterated = True
            self._iterator = self._messages()
        return self._iterator

    async def _messages(self) -> AsyncIterator[Any]:
        engine = self._engine
        while (message := await engine.next()) is not EOF:
            yield message
        await engine.raise_for_status()

    async def read(self) -> Any:
        engine = self._engine
        if engine.outcome is not None:
            await engine.raise_for_status()
            return EOF
        if self._iterator is not None:
            raise grpc.aio.UsageError(MIXED)
        self._reads = True
        message = await engine.next()
        if message is EOF:
            await engine.raise_for_status()
        return message


class _Writing(Handle):
    """The requests of a handle."""

    @property
    def _done_writing_flag(self) -> bool:
        """Read by grpc.aio's interceptors."""
        return bool(self._engine.requests.half_closed)

    async def write(self, request: Any) -> None:
        await self._engine.requests.write(request)

    async def done_writing(self) -> None:
        await self._engine.requests.done_writing()


@final
class UnaryStreamCall(_Reading, grpc.aio.UnaryStreamCall):  # type: ignore[type-arg]
    """One request, a stream of responses."""

    def __init__(self, lease: ChannelHandle, invocation: Invocation, request: Any) -> None:
        engine = _ResponseStream(lease, invocation)
        engine.data = serialized(request, invocation.method)
        self.hold(engine)


@final
class StreamUnaryCall(_Writing, grpc.aio.StreamUnaryCall):  # type: ignore[type-arg]
    """A stream of requests, one response. With an iterator it runs to its end without the application's reference."""

    def __init__(self, lease: ChannelHandle, invocation: Invocation, iterator: Any) -> None:
        engine = _RequestStream(lease, invocation)
        engine.requests = Requests(engine, engine.method, iterator, engine.call.plan.buffer_size, engine.context)
        self.hold(engine, kept=iterator is not None)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._engine.__await__()  # type: ignore[no-any-return]


@final
class StreamStreamCall(_Reading, _Writing, grpc.aio.StreamStreamCall):  # type: ignore[type-arg]
    """A stream of requests, a stream of responses."""

    def __init__(self, lease: ChannelHandle, invocation: Invocation, iterator: Any) -> None:
        engine = _ResponseStream(lease, invocation)
        engine.requests = Requests(engine, engine.method, iterator, engine.call.plan.buffer_size, engine.context)
        self.hold(engine)
