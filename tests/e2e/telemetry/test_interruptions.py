"""Exceptions of signal handlers inside telemetry: no call and no exception is lost."""

import asyncio
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from tests.e2e.telemetry.recording import (
    METHODS,
    all_kinds,
    processed,
    static,
    until,
)

import meshlib
from meshlib import aio
from meshlib.testing import Server


class SoftTimeLimit(Exception):  # noqa: N818 - as celery's
    """Raised by celery's handler."""


class Interrupting(SpanProcessor):
    """The signal arrives while the n-th span starts, or while it ends."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.left = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._count("start")

    def on_end(self, span: ReadableSpan) -> None:
        self._count("end")

    def _count(self, at: str) -> None:
        if self.at == at and threading.current_thread() is threading.main_thread():
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("kind", "at", "n"),
    [
        ("unary_unary", "start", 1),  # the span of the call
        ("unary_unary", "start", 2),  # that of the attempt
        ("unary_unary", "end", 1),
        ("unary_unary", "end", 2),
        ("stream_unary", "start", 1),
        ("stream_unary", "start", 2),  # grpc's thread ends the spans of this kind
    ],
)
def test_what_a_signal_handler_raises_inside_telemetry_reaches_the_caller(kind: str, at: str, n: int) -> None:
    """A soft time limit is not a failure of the span processor that it interrupts, and nothing is left of the call."""

    def handler(number: int, frame: FrameType | None) -> NoReturn:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        processor = Interrupting(at)
        options: dict[str, Any] = {
            "tracer_provider": processed(processor),
            "telemetry": meshlib.TelemetryPolicy(attempt_spans=True),
        }
        with Server() as server, meshlib.channel(static(server), **options) as channel:
            made = getattr(channel, kind)(METHODS[kind])

            def one() -> None:
                made(iter([b"x"]) if kind == "stream_unary" else b"x", timeout=10)

            one()  # connected, the next one starts on this thread
            processor.left = n
            with pytest.raises(SoftTimeLimit):
                one()
            one()
            until(lambda: [host.in_flight for host in channel.mesh.snapshot().hosts] == [0])
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("at", ["start", "end"])
@all_kinds
async def test_no_asyncio_call_is_lost_to_a_signal_inside_telemetry(kind: str, at: str, n: int) -> None:
    """An interrupted caller gets the exception; otherwise the call ends as usual, and the event loop reports the
    exception."""

    def handler(number: int, frame: FrameType | None) -> NoReturn:
        raise SoftTimeLimit

    loop, processor = asyncio.get_running_loop(), Interrupting(at)
    reported: asyncio.Queue[type] = asyncio.Queue()
    loop.set_exception_handler(lambda _, about: reported.put_nowait(type(about.get("exception"))))
    policy = meshlib.TelemetryPolicy(attempt_spans=True)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with Server() as server:
            provider = processed(processor)
            async with aio.channel(static(server), tracer_provider=provider, telemetry=policy) as channel:
                made = getattr(channel, kind)(METHODS[kind])

                async def one() -> None:
                    begun = made(iter([b"x"]) if kind.startswith("stream") else b"x", timeout=10)
                    if kind.endswith("stream"):
                        async for _ in begun:
                            pass
                    else:
                        await begun

                await one()
                processor.left = n
                if (at, n) == ("start", 1):
                    with pytest.raises(SoftTimeLimit):
                        await one()
                else:
                    await one()
                    assert await reported.get() is SoftTimeLimit
                await one()
                assert [host.in_flight for host in channel.mesh.snapshot().hosts] == [0]
    finally:
        signal.signal(signal.SIGUSR1, before)
