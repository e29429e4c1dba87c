"""Loads of ``calls.py``, and one batch of a load."""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from call_variants import BARE, BY_HAND, MESH, NAMES, THREE_BY_HAND, TRACED, Variant
from google.protobuf.wrappers_pb2 import BytesValue

from meshlib.testing import echo

__all__ = ["LOADS", "Batch", "Load", "batch", "batch_async"]

MESSAGES = 100
"""Messages of a stream."""
FEW = (
    BARE,
    "bare, our arguments",
    "three bare in turn",
    "grpc round_robin, retryPolicy",
    "Envoy sidecar",
    MESH,
    TRACED,
)
SEVERAL = (*FEW, "loop by hand", BY_HAND, THREE_BY_HAND)


@dataclass(frozen=True, slots=True)
class Load:
    """A load on a variant.

    Args:
        name: name of the load.
        shell: ``sync`` or ``aio``.
        callers: threads, or tasks, that call sequentially.
        size: bytes of a message.
        streaming: a call is a stream of answers, and a figure is that of one message.
        stub: as generated code calls, with messages of protobuf, a registered method, and an item of metadata.
        with_call: return the call as well as the answer, as interceptors do.
        calls: approximate calls of a batch.
        variants: variants measured under it.
    """

    name: str
    shell: str
    callers: int
    size: int = 100
    streaming: bool = False
    stub: bool = False
    with_call: bool = False
    calls: int = 300
    variants: Iterable[str] = FEW

    @property
    def units(self) -> int:
        """Return the units of a call."""
        return MESSAGES if self.streaming else 1

    def caller(self, variant: Variant) -> Callable[..., Any]:
        """Return the function that makes one call."""
        if self.streaming:
            return variant.calls("unary_stream", echo.SERVER_STREAM)
        codecs = (BytesValue.SerializeToString, BytesValue.FromString, True) if self.stub else ()
        return variant.calls("unary_unary", echo.UNARY, *codecs, with_call=self.with_call)

    @property
    def message(self) -> Any:
        """Return the message to send."""
        data = b"x" * self.size
        return BytesValue(value=data) if self.stub else data

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """Return metadata for the server's number of messages, or a typical item of an application."""
        if self.streaming:
            return ((echo.COUNT, str(MESSAGES)),)
        return (("x-request-id", "0af7651916cd43dd8448eb211c80319c"),) if self.stub else None


LOADS = (
    Load("unary, 1 thread", "sync", 1, variants=tuple(NAMES)),
    Load("unary, 8 threads", "sync", 8, variants=SEVERAL),
    Load("unary, 32 threads", "sync", 32, calls=640, variants=SEVERAL),
    Load("unary, 1 task", "aio", 1),
    Load("unary, 32 tasks", "aio", 32, calls=640),
    Load("unary of a protobuf stub with metadata, 1 thread", "sync", 1, stub=True),
    Load("unary by with_call, 1 thread", "sync", 1, with_call=True),
    Load("unary of 100 KiB, 1 thread", "sync", 1, size=102_400, calls=100),
    Load("message of a stream, 1 thread", "sync", 1, streaming=True, calls=5),
    Load("message of a stream, 1 task", "aio", 1, streaming=True, calls=5),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Result of a batch, for a call or a message of a stream.

    Args:
        cpu: seconds, including the sidecar's.
        sidecar: seconds of the sidecar.
        rate: per second.
        seconds: duration of each.
    """

    cpu: float
    sidecar: float
    rate: float
    seconds: list[float]


class Watch:
    """Measure CPU and time until ``read``."""

    def __init__(self, variant: Variant) -> None:
        self._sidecar = variant.sidecar
        self._before = self._sidecar.cpu if self._sidecar else 0.0
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, units: int, seconds: list[float]) -> Batch:
        """Return the batch of ``units`` calls or messages."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        sidecar = self._sidecar.cpu - self._before if self._sidecar else 0.0
        return Batch((cpu + sidecar) / units, sidecar / units, units / wall, seconds)


def batch(load: Load, variant: Variant, pool: ThreadPoolExecutor, calls: int) -> Batch:
    """Run one batch of blocking calls."""
    call, message, metadata = load.caller(variant), load.message, load.metadata
    seconds: list[float] = []

    def caller(count: int) -> None:
        clock = time.perf_counter
        for _ in range(count):
            began = clock()
            answer = call(message, metadata=metadata)
            if load.streaming:
                for _ in answer:
                    pass
            seconds.append((clock() - began) / load.units)

    caller(1)  # creates objects that are made once per method
    seconds.clear()
    watch = Watch(variant)
    if load.callers == 1:
        caller(calls)
    else:
        list(pool.map(caller, [calls // load.callers] * load.callers))
    return watch.read(calls * load.units, seconds)


async def batch_async(load: Load, variant: Variant, calls: int) -> Batch:
    """Run one batch of asyncio calls."""
    call, message, metadata = load.caller(variant), load.message, load.metadata
    seconds: list[float] = []

    async def caller(count: int) -> None:
        clock = time.perf_counter
        for _ in range(count):
            began = clock()
            answer = call(message, metadata=metadata)
            if load.streaming:
                async for _ in answer:
                    pass
            else:
                await answer
            seconds.append((clock() - began) / load.units)

    await caller(1)
    seconds.clear()
    watch = Watch(variant)
    await asyncio.gather(*(caller(calls // load.callers) for _ in range(load.callers)))
    return watch.read(calls * load.units, seconds)
