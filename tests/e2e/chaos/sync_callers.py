"""Calling threads, on a ``meshlib.channel``."""

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any, Self

import grpc
from tests.e2e.chaos.callers import APART, END_SECONDS, Metronome, still_open
from tests.e2e.chaos.calls import METHODS, Order, Record, orders

import meshlib

__all__ = ["SyncCallers"]


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
            raise TimeoutError("\n".join(["callers are stuck", *still_open(self.records), *stacks]))

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
    """Start functions by kind; half of the unary calls take the blocking form, which has its own code path."""
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
        """Run the callback at once: the call has returned."""
        tell(self)

    def result(self, _: float) -> Any:
        """Its response."""
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
