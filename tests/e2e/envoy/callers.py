"""The callers of a case: threads over a ``grpc.Channel``, Envoy's or meshlib's, or tasks over meshlib's aio."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio

from meshlib.testing import echo

TIMEOUT = 10.0
"""Seconds for every call without a timeout: a hang fails a case, and does not stop it."""
_END_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call.

    Args:
        id: Key of its executions.
        method: Full name; its kind follows from it.
        timeout: Seconds; None: that of the policy.
        delay: Milliseconds for which a server holds it.
        wait_for_ready: As in grpc.
        open: For ``BIDI_STREAM``: keep the request side open until the response has arrived.
        sizes: Of the requests, bytes; several are for streams.
    """

    id: str
    method: str = echo.UNARY
    timeout: float | None = TIMEOUT
    delay: float = 0.0
    wait_for_ready: bool = False
    open: bool = False
    sizes: tuple[int, ...] = (10,)

    @property
    def requests(self) -> list[bytes]:
        """The request messages."""
        return [bytes(size) for size in self.sizes]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata by which servers count and act."""
        return ((echo.REQUEST_ID, self.id), (echo.DELAY_MS, str(self.delay)))

    @property
    def options(self) -> dict[str, Any]:
        """Call arguments for any stub."""
        return {"timeout": self.timeout, "metadata": self.metadata, "wait_for_ready": self.wait_for_ready}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One call that has ended.

    Args:
        id: As in its request.
        code: Name of the status.
        server: Name of the server that answered; None if none did.
        messages: Its responses.
        attempts: Number of meshlib's attempts; 0 without meshlib.
    """

    id: str
    code: str
    server: str | None
    messages: list[bytes] = field(default_factory=list)
    attempts: int = 0


class Caller(Protocol):
    """Makes calls over one channel, from any thread."""

    channel: Any

    def start(self, request: Request) -> "Future[Result]":
        """Begin one call."""
        ...

    def call(self, request: Request) -> Result:
        """Make one call."""
        ...

    def close(self) -> None:
        """Close the channel and end its threads or loop."""
        ...


class ThreadCaller:
    """Blocking calls over a ``grpc.Channel``."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._threads = ThreadPoolExecutor(80, thread_name_prefix="caller")

    def start(self, request: Request) -> "Future[Result]":
        """In a thread."""
        return self._threads.submit(self.call, request)

    def call(self, request: Request) -> Result:
        """In this thread."""
        messages: list[bytes] = []
        answered = threading.Event()
        call: Any
        try:
            if request.method == echo.SERVER_STREAM:
                call = self.channel.unary_stream(request.method)(*request.requests, **request.options)
                messages.extend(call)
            elif request.method == echo.CLIENT_STREAM:
                requests = iter(request.requests)
                message, call = self.channel.stream_unary(request.method).with_call(requests, **request.options)
                messages.append(message)
            elif request.method == echo.BIDI_STREAM:
                call = self.channel.stream_stream(request.method)(_requests(request, answered), **request.options)
                for message in call:
                    messages.append(message)
                    answered.set()
            else:
                unary = self.channel.unary_unary(request.method)
                message, call = unary.with_call(*request.requests, **request.options)
                messages.append(message)
        except grpc.RpcError as error:
            call = error
        finally:
            answered.set()
        return _result(request, call.code(), call.initial_metadata(), messages, call)

    def close(self) -> None:
        """Idempotent."""
        self.channel.close()
        self._threads.shutdown()


class LoopCaller:
    """Calls over a ``grpc.aio.Channel``, on a loop of their own in a thread.

    Args:
        make: Makes the channel, in the loop.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="caller")
        self._thread.start()
        self.channel = asyncio.run_coroutine_threadsafe(_made(make), self._loop).result(_END_SECONDS)

    def start(self, request: Request) -> "Future[Result]":
        """In a task."""
        return asyncio.run_coroutine_threadsafe(self._call(request), self._loop)

    def call(self, request: Request) -> Result:
        """Wait for the task."""
        return self.start(request).result((request.timeout or TIMEOUT) + _END_SECONDS)

    async def _call(self, request: Request) -> Result:
        messages: list[bytes] = []
        answered = asyncio.Event()
        call: Any
        try:
            if request.method == echo.SERVER_STREAM:
                call = self.channel.unary_stream(request.method)(*request.requests, **request.options)
                async for message in call:
                    messages.append(message)  # noqa: PERF401 - those before an error count
            elif request.method == echo.CLIENT_STREAM:
                call = self.channel.stream_unary(request.method)(iter(request.requests), **request.options)
                messages.append(await call)
            elif request.method == echo.BIDI_STREAM:
                call = self.channel.stream_stream(request.method)(_aio_requests(request, answered), **request.options)
                async for message in call:
                    messages.append(message)
                    answered.set()
            else:
                call = self.channel.unary_unary(request.method)(*request.requests, **request.options)
                messages.append(await call)
        except grpc.aio.AioRpcError:
            pass
        finally:
            answered.set()
        return _result(request, await call.code(), await call.initial_metadata(), messages, call)

    def close(self) -> None:
        """Idempotent."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self.channel.close(), self._loop).result(_END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_SECONDS)
        self._loop.close()


async def _made(make: Callable[[], Any]) -> Any:
    return make()


def _requests(request: Request, answered: threading.Event) -> Iterator[bytes]:
    yield from request.requests
    if request.open:
        answered.wait(TIMEOUT)


async def _aio_requests(request: Request, answered: asyncio.Event) -> AsyncIterator[bytes]:
    for message in request.requests:
        yield message
    if request.open:
        await answered.wait()


def _result(request: Request, code: grpc.StatusCode, initial: Any, messages: list[bytes], call: Any) -> Result:
    return Result(
        id=request.id,
        code=code.name,
        server=next((str(value) for key, value in initial or () if key == echo.SERVER_NAME), None),
        messages=messages,
        attempts=len(call.mesh.attempts) if hasattr(call, "mesh") else 0,
    )
