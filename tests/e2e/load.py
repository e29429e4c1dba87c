"""Traffic for the acceptance tests: callers that never pause, in threads or in asyncio, and a record of each call.

with Load(target, shell="aio", kind="streaming", callers=12) as load:
    load.wait_until(lambda: len(load.results) >= 100)
    ...
assert load.failed == []
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

import grpc
import grpc.aio

import meshlib
from meshlib.testing import echo

Shell = Literal["sync", "aio"]
Kind = Literal["unary", "streaming"]

SHELLS: tuple[Shell, ...] = ("sync", "aio")
KINDS: tuple[Kind, ...] = ("unary", "streaming")

PAYLOAD = b"acceptance"
MESSAGES = 3
"""Responses of a streaming call."""
_END_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One call that has ended."""

    request_id: str
    code: str
    details: str
    server: str | None
    """The name of the server that answered; None if none did."""
    attempts: tuple[Any, ...]
    """``call.mesh.attempts``, or that of the error."""
    messages: int
    began: float
    ended: float
    """``time.monotonic()``."""

    @property
    def seconds(self) -> float:
        """Duration of the call, including retries."""
        return self.ended - self.began

    @property
    def committed(self) -> bool:
        """Whether a message had arrived: the call must not be retried."""
        return self.messages > 0


class Load:
    """``callers`` callers; each makes its next call as soon as the last has ended.

    Args:
        target: The target for ``meshlib.channel``, with ``options``.
        shell: Threads and ``meshlib.channel``, or tasks of one loop and ``meshlib.aio.channel``.
        kind: Echo one message, or one request and a stream of three.
        callers: Number of calls in flight at any time.
        delay: Milliseconds for which handlers hold each call before they begin to answer.
        timeout: Seconds for each call.
        prefix: Prefix of the request ids.
        options: Further arguments of the channel.
    """

    def __init__(
        self,
        target: str,
        *,
        shell: Shell = "sync",
        kind: Kind = "unary",
        callers: int = 8,
        delay: float = 0.0,
        timeout: float = 10.0,
        prefix: str = "request",
        **options: Any,
    ) -> None:
        self.results: list[Result] = []
        self.channel: Any = None
        self._kind = kind
        self._callers = callers
        self._delay = delay
        self._timeout = timeout
        self._prefix = prefix
        self._ids = itertools.count(1)
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._shell = shell
        self._open = lambda: _opened(shell, target, options)

    # --- life ---

    def __enter__(self) -> Self:
        if self._shell == "aio":
            bodies: list[Callable[[], None]] = [lambda: asyncio.run(self._aio())]
        else:
            self.channel = self._open()
            bodies = [self._sync] * self._callers
        self._threads = [threading.Thread(target=self._guarded, args=(body,), name="load") for body in bodies]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the calls in flight end, then close the channel; raises errors that a caller did not expect."""
        self._stopping.set()
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [thread for thread in self._threads if thread.is_alive()]
        self._threads = []
        if self._shell == "sync" and self.channel is not None:
            self.channel.close()
        if stuck:
            raise TimeoutError(f"{len(stuck)} callers have not ended {_END_SECONDS} s after they were stopped")
        if self._errors:
            raise self._errors[0]

    # --- results ---

    def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until ``condition()`` is true; it is checked after every call.

        Raises:
            TimeoutError: It is still false after ``timeout`` seconds, or no caller is left.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition() or bool(self._errors), timeout) or self._errors:
                raise TimeoutError(f"not in {timeout} s, after {self!r}") from next(iter(self._errors), None)

    def wait_for_calls(self, n: int, timeout: float = 10.0) -> None:
        """Wait until ``n`` more calls, started from now on, have ended."""
        now, ended = time.monotonic(), len(self.results)
        self.wait_until(lambda: sum(result.began >= now for result in self.results[ended:]) >= n, timeout)

    def wait_for_ready(self, n: int, timeout: float = 10.0) -> None:
        """Wait until the channel has connections to ``n`` hosts and calls to them have ended."""
        self.wait_until(lambda: self.ready() == n, timeout)

    def ready(self) -> int:
        """Number of connected hosts."""
        if self.channel is None:
            return 0
        return sum(host.state == "READY" for host in self.channel.mesh.snapshot().hosts)

    def since(self, began: float) -> list[Result]:
        """The calls that began at ``began``, by ``time.monotonic()``, or later."""
        return [result for result in self.results if result.began >= began]

    @property
    def failed(self) -> list[Result]:
        """The calls that did not end OK with every message."""
        return [result for result in self.results if result.code != "OK"]

    @property
    def attempts(self) -> int:
        """Number of attempts of all calls."""
        return sum(len(result.attempts) for result in self.results)

    def __repr__(self) -> str:
        last = f", last {self.results[-1]}" if self.results else ""
        return f"<Load {len(self.results)} calls, {len(self.failed)} failed{last}>"

    # --- callers ---

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            with self._changed:
                self._errors.append(error)
                self._changed.notify_all()

    def _sync(self) -> None:
        call = self._sync_unary if self._kind == "unary" else self._sync_stream
        while not self._stopping.is_set():
            call(f"{self._prefix}-{next(self._ids)}")

    def _sync_unary(self, request_id: str) -> None:
        began = time.monotonic()
        try:
            response, call = self.channel.unary_unary(echo.UNARY).with_call(
                PAYLOAD, timeout=self._timeout, metadata=self._metadata(request_id)
            )
        except grpc.RpcError as error:
            self._note(request_id, error, [], began)
        else:
            self._note(request_id, call, [response], began)

    def _sync_stream(self, request_id: str) -> None:
        began = time.monotonic()
        received: list[bytes] = []
        call = self.channel.unary_stream(echo.SERVER_STREAM)(
            PAYLOAD, timeout=self._timeout, metadata=self._metadata(request_id)
        )
        try:
            for message in call:
                received.append(message)  # noqa: PERF402 - those before an error count
        except grpc.RpcError as error:
            self._note(request_id, error, received, began)
        else:
            self._note(request_id, call, received, began)

    async def _aio(self) -> None:
        channel = self._open()
        async with channel:
            self.channel = channel
            call = self._aio_unary if self._kind == "unary" else self._aio_stream

            async def caller() -> None:
                while not self._stopping.is_set():
                    await call(f"{self._prefix}-{next(self._ids)}")

            async with asyncio.TaskGroup() as group:
                for _ in range(self._callers):
                    group.create_task(caller())

    async def _aio_unary(self, request_id: str) -> None:
        began = time.monotonic()
        call = self.channel.unary_unary(echo.UNARY)(PAYLOAD, timeout=self._timeout, metadata=self._metadata(request_id))
        try:
            received = [await call]
        except grpc.aio.AioRpcError as error:
            self._note(request_id, error, [], began, mesh=call.mesh)
        else:
            await self._aio_note(request_id, call, received, began)

    async def _aio_stream(self, request_id: str) -> None:
        began = time.monotonic()
        received: list[bytes] = []
        call = self.channel.unary_stream(echo.SERVER_STREAM)(
            PAYLOAD, timeout=self._timeout, metadata=self._metadata(request_id)
        )
        try:
            async for message in call:
                received.append(message)  # noqa: PERF401 - those before an error count
        except grpc.aio.AioRpcError as error:
            self._note(request_id, error, received, began, mesh=call.mesh)
        else:
            await self._aio_note(request_id, call, received, began)

    def _metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        return ((echo.REQUEST_ID, request_id), (echo.DELAY_MS, str(self._delay)), (echo.COUNT, str(MESSAGES)))

    async def _aio_note(self, request_id: str, call: Any, received: list[bytes], began: float) -> None:
        code, initial = await call.code(), await call.initial_metadata()
        self._add(request_id, code, "", initial, call.mesh, received, began)

    def _note(self, request_id: str, call: Any, received: list[bytes], began: float, mesh: Any = None) -> None:
        self._add(request_id, call.code(), call.details(), call.initial_metadata(), mesh or call.mesh, received, began)

    def _add(
        self,
        request_id: str,
        code: grpc.StatusCode,
        details: str | None,
        initial: Iterable[tuple[str, Any]] | None,
        mesh: Any,
        received: list[bytes],
        began: float,
    ) -> None:
        if code is grpc.StatusCode.OK:
            assert received == [PAYLOAD] * (1 if self._kind == "unary" else MESSAGES), received
        result = Result(
            request_id=request_id,
            code=code.name,
            details=details or "",
            server=next((value for key, value in initial or () if key == echo.SERVER_NAME), None),
            attempts=mesh.attempts,
            messages=len(received),
            began=began,
            ended=time.monotonic(),
        )
        with self._changed:
            self.results.append(result)
            self._changed.notify_all()


def _opened(shell: Shell, target: str, options: dict[str, Any]) -> Any:
    if shell == "sync":
        return meshlib.channel(target, **options)
    from meshlib import aio

    return aio.channel(target, **options)
