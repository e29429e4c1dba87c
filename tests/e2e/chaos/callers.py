"""Who makes the calls of a chaos run: threads, or the tasks of one loop. Both begin, pause and end in the same way."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import Future
from functools import partial
from random import Random
from typing import Any, Protocol, Self

import grpc
import grpc.aio
from tests.e2e.chaos.calls import METHODS, Order, Record, orders

import meshlib
import meshlib.aio

END_SECONDS = 30.0
"""After which a caller that was told to end is stuck: no deadline of a call is that long."""
APART = 1_000_000
"""Between the numbers of one caller and those of the next."""


class Callers(Protocol):
    """What both shells offer."""

    channel: Any
    records: list[Record]

    def begin(self, rngs: list[Random], **how: Any) -> None:
        """Each caller makes its calls, one after another, from now on."""
        ...

    def end(self) -> None:
        """Let the calls under way end; raises what a caller did not expect."""
        ...

    def late(self) -> float:
        """By how much this process's own clock was late at worst since ``begin``, seconds: the machine's share in the
        lateness of a call."""
        ...

    def connect(self) -> None:
        """Have the channel look its hosts up and connect, if it has not been used."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Metronome:
    """Wakes up at fixed times, and knows how late it was: what a loaded machine does to whoever waits."""

    BEAT = 0.02

    def __init__(self) -> None:
        self.worst = 0.0
        self._due = time.monotonic() + self.BEAT

    def beat(self) -> float:
        """It woke up; returns the seconds until it should again."""
        now = time.monotonic()
        self.worst = max(self.worst, now - self._due)
        self._due = now + self.BEAT
        return self.BEAT


class SyncCallers:
    """Threads on a ``meshlib.channel``."""

    def __init__(self, target: str, **options: Any) -> None:
        self.records: list[Record] = []
        self.channel: Any = meshlib.channel(target, **options)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._metronome = Metronome()
        self._numbers = 0

    def begin(self, rngs: list[Random], **how: Any) -> None:
        self._stopping.clear()
        self._metronome = Metronome()
        start = _starters(self.channel)
        bodies: list[Any] = [self._tick]
        for rng in rngs:
            self._numbers += APART
            bodies.append(partial(self._call, start, orders(rng, self._numbers, **how)))
        self._threads = [threading.Thread(target=self._guarded, args=(body,), name="caller") for body in bodies]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [thread for thread in self._threads if thread.is_alive()]
        self._threads = []
        if self._errors:
            raise self._errors[0]
        if stuck:
            frames = sys._current_frames()
            stacks = [
                "".join(traceback.format_stack(frames[thread.ident])) for thread in stuck if thread.ident in frames
            ]
            raise TimeoutError("\n".join(["callers are stuck", *_open(self.records), *stacks]))

    def late(self) -> float:
        return self._metronome.worst

    def connect(self) -> None:
        grpc.channel_ready_future(self.channel).result(END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.end()
        finally:
            self.channel.close()

    def _guarded(self, body: Any) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - raised again by end()
            self._errors.append(error)

    def _tick(self) -> None:
        while not self._stopping.wait(self._metronome.beat()):
            pass

    def _call(self, start: dict[str, Any], plan: Iterator[Order]) -> None:
        for order in plan:
            if self._stopping.is_set():
                return
            self._one(start[order.kind], order)

    def _one(self, start: Any, order: Order) -> None:
        record = Record(order, time.monotonic())
        self.records.append(record)
        call = start(order, timeout=order.timeout, metadata=order.metadata, wait_for_ready=order.wait_for_ready)
        call.add_done_callback(record.tell)
        if order.cancel == "at once":
            call.cancel()
        try:
            for message in call if order.kind.endswith("stream") else (call.result(END_SECONDS) for _ in "1"):
                record.messages.append(message)
                if order.cancel:
                    call.cancel()
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        record.end(call.code(), call.details(), call.mesh)


def _starters(channel: Any) -> dict[str, Any]:
    """How to start a call of each kind; the blocking form is another path through the mesh, so half of the unary calls
    take it."""
    made = {kind: getattr(channel, kind)(method) for kind, method in METHODS.items()}

    def unary(order: Order, **options: Any) -> Any:
        call = made["unary_unary"]
        if order.cancel or order.number % 2:
            return call.future(order.requests[0], **options)
        try:
            response, answered = call.with_call(order.requests[0], **options)
            return Answered(answered, response)
        except grpc.RpcError as error:
            return Answered(error)

    return {
        "unary_unary": unary,
        "unary_stream": lambda order, **options: made["unary_stream"](order.requests[0], **options),
        "stream_unary": lambda order, **options: made["stream_unary"].future(_paced(order), **options),
        "stream_stream": lambda order, **options: made["stream_stream"](_paced(order), **options),
    }


class Answered:
    """A blocking call that has ended, as a future."""

    def __init__(self, call: Any, *response: Any) -> None:
        self._call = call
        self._response = response

    def add_done_callback(self, tell: Any) -> None:
        """It has ended, once: the call has returned."""
        tell(self)

    def result(self, _: float) -> Any:
        """What it answered."""
        if not self._response:
            raise self._call
        return self._response[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _paced(order: Order) -> Iterator[bytes]:
    for request in order.requests:
        if order.pace:
            time.sleep(order.pace)
        yield request


class AioCallers:
    """Tasks on a ``meshlib.aio.channel``, in a loop of their own thread."""

    def __init__(self, target: str, **options: Any) -> None:
        self.records: list[Record] = []
        self.channel: Any = meshlib.aio.channel(target, **options)
        self._metronome = Metronome()
        self._numbers = 0
        self._stopping = False
        self._running: Future[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="callers")
        self._thread.start()

    def begin(self, rngs: list[Random], **how: Any) -> None:
        self._stopping = False
        self._metronome = Metronome()
        plans = []
        for rng in rngs:
            self._numbers += APART
            plans.append(orders(rng, self._numbers, **how))
        self._running = asyncio.run_coroutine_threadsafe(self._all(plans), self._loop)

    def end(self) -> None:
        self._stopping = True
        running, self._running = self._running, None
        if running is not None:
            try:
                running.result(END_SECONDS)
            except TimeoutError as error:
                raise TimeoutError("\n".join(["callers are stuck", *_open(self.records)])) from error

    def late(self) -> float:
        return self._metronome.worst

    def connect(self) -> None:
        asyncio.run_coroutine_threadsafe(self.channel.channel_ready(), self._loop).result(END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.end()
        finally:
            left = asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(END_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(END_SECONDS)
            self._loop.close()
        if left:
            raise AssertionError(f"tasks are left: {left}")

    async def _close(self) -> list[Any]:
        """Close the channel; returns the tasks that do not end with it."""
        await self.channel.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, others = await asyncio.wait(others, timeout=5.0)
        return list(others)

    async def _all(self, plans: list[Iterator[Order]]) -> None:
        ticking = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as group:
                for plan in plans:
                    group.create_task(self._call(plan))
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        while True:  # noqa: ASYNC110 - it is the time itself that is waited for
            await asyncio.sleep(self._metronome.beat())

    async def _call(self, plan: Iterator[Order]) -> None:
        for order in plan:
            if self._stopping:
                return
            await self._one(order)

    async def _one(self, order: Order) -> None:
        record = Record(order, time.monotonic())
        self.records.append(record)
        requests: Any = order.requests[0] if order.kind.startswith("unary") else _apaced(order)
        call = getattr(self.channel, order.kind)(METHODS[order.kind])(
            requests, timeout=order.timeout, metadata=order.metadata, wait_for_ready=order.wait_for_ready
        )
        call.add_done_callback(record.tell)
        if order.cancel == "at once":
            call.cancel()
        try:
            async for message in call if order.kind.endswith("stream") else _alone(call):
                record.messages.append(message)
                if order.cancel:
                    call.cancel()
        except grpc.aio.AioRpcError:
            pass
        except asyncio.CancelledError:
            if not call.cancelled() or not order.cancel:
                raise
        record.end(await call.code(), await call.details(), call.mesh)


def _open(records: list[Record]) -> list[str]:
    """The calls that have not ended."""
    return [f"began {time.monotonic() - record.began:.1f} s ago: {record}" for record in records if not record.ended]


async def _alone(call: Awaitable[bytes]) -> AsyncIterator[bytes]:
    yield await call


async def _apaced(order: Order) -> AsyncIterator[bytes]:
    for request in order.requests:
        if order.pace:
            await asyncio.sleep(order.pace)
        yield request
