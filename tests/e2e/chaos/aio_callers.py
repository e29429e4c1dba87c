"""Calling tasks of one loop, on a ``meshlib.aio.channel``."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import Future
from random import Random
from typing import Any, Self

import grpc
import grpc.aio
from tests.e2e.chaos.callers import APART, END_SECONDS, Metronome, still_open
from tests.e2e.chaos.calls import METHODS, Order, Record, orders

import meshlib.aio

__all__ = ["AioCallers"]


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
                raise TimeoutError("\n".join(["callers are stuck", *still_open(self.records)])) from error

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
        while True:  # noqa: ASYNC110 - it waits for the time itself
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
            if not order.cancel:  # a TaskGroup would take it for a cancellation of the task
                raise AssertionError(f"nobody cancelled {order.id}, {call!r}, {call.mesh!r}") from None
        record.end(await call.code(), await call.details(), call.mesh)


async def _alone(call: Awaitable[bytes]) -> AsyncIterator[bytes]:
    yield await call


async def _apaced(order: Order) -> AsyncIterator[bytes]:
    for request in order.requests:
        if order.pace:
            await asyncio.sleep(order.pace)
        yield request
