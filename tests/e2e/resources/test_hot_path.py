"""The cost of a call in instructions of the interpreter, against a file that is checked in: no seconds, no noise.

Only meshlib's own code is counted, on the calling thread, after a warm-up; of several calls the cheapest counts, since
a sweep or another search for a provider may fall into any. The counts differ from one Python to the next, so the file
has a table for each. ``MESHLIB_UPDATE_HOT_PATH=1`` writes the table of the running Python; a higher cost is a decision,
and belongs in the commit message.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo

pytestmark = pytest.mark.alone  # while a call waits for the processor, a sweep may fall into every one

COUNTS = Path(__file__).with_name("hot_path.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
OURS = str(Path(meshlib.__file__).parent)
CALLS = 20
SLACK = 0.05
"""Fraction by which a count may fall below the file before the file must be rewritten."""


class Count:
    """Instructions executed in meshlib's own code on the thread that made it."""

    def __init__(self) -> None:
        self.instructions = 0
        self._thread = threading.get_ident()

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """For ``sys.settrace``."""
        if event == "call" and not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self.instructions += event == "opcode"
        return self.trace

    def instruction(self, code: CodeType, _: int) -> object:
        """For ``sys.monitoring``, which reports every thread."""
        if not code.co_filename.startswith(OURS):
            return sys.monitoring.DISABLE
        self.instructions += threading.get_ident() == self._thread
        return None


@contextmanager
def counted() -> Iterator[Count]:
    """Count the instructions of the block."""
    count = Count()
    if sys.version_info < (3, 12):
        before = sys.gettrace()
        sys.settrace(count.trace)
        try:
            yield count
        finally:
            sys.settrace(before)
        return
    monitoring, event = sys.monitoring, sys.monitoring.events.INSTRUCTION
    monitoring.use_tool_id(monitoring.PROFILER_ID, __name__)
    monitoring.register_callback(monitoring.PROFILER_ID, event, count.instruction)
    monitoring.set_events(monitoring.PROFILER_ID, event)
    try:
        yield count
    finally:
        monitoring.set_events(monitoring.PROFILER_ID, 0)
        monitoring.free_tool_id(monitoring.PROFILER_ID)


def least(call: Callable[[], object]) -> int:
    """The instructions of one call, the cheapest of several."""
    for _ in range(CALLS):
        call()
    found = []
    for _ in range(CALLS):
        with counted() as count:
            call()
        found.append(count.instructions)
    return min(found)


async def least_async(call: Callable[[], Awaitable[object]]) -> int:
    """The same for asyncio."""
    for _ in range(CALLS):
        await call()
    found = []
    for _ in range(CALLS):
        with counted() as count:
            await call()
        found.append(count.instructions)
    return min(found)


@pytest.fixture
def target() -> Iterator[str]:
    """Three hosts."""
    with Server() as first, Server() as second, Server() as third:
        yield "static:///" + ",".join(server.address for server in (first, second, third))


def check(name: str, instructions: int) -> None:
    """Compare one count with the file, or write it there."""
    known = json.loads(COUNTS.read_text())
    table = known.setdefault(VERSION, {})
    if os.environ.get("MESHLIB_UPDATE_HOT_PATH"):
        table[name] = instructions
        COUNTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    if not table:
        pytest.skip(f"hot_path.json has no counts for Python {VERSION}")
    most = table[name]
    advice = "MESHLIB_UPDATE_HOT_PATH=1 writes the file anew"
    assert instructions <= most, f"{name} takes {instructions} instructions, not {most}: if it has to, {advice}"
    assert instructions >= most * (1 - SLACK), f"{name} takes only {instructions} instructions, not {most}: {advice}"


def test_a_blocking_call(target: str) -> None:
    """The cost with all default policies, no provider."""
    with meshlib.channel(target) as channel:
        call = channel.unary_unary(echo.UNARY)
        check("sync unary", least(lambda: call(b"x", timeout=10.0)))


def test_a_blocking_call_as_generated_code_makes_it(target: str) -> None:
    """The cost with a serializer, a deserializer and one item of metadata."""
    with meshlib.channel(target) as channel:
        call: Any = channel.unary_unary(echo.UNARY, str.encode, bytes.decode, True)  # type: ignore[call-arg]
        metadata = (("x-request-id", "7d3f"),)
        check("sync unary, of a stub with metadata", least(lambda: call("x", timeout=10.0, metadata=metadata)))


def test_a_blocking_call_that_is_asked_for_its_metadata(target: str) -> None:
    """The cost of a call as interceptors make it."""
    with meshlib.channel(target) as channel:
        call = channel.unary_unary(echo.UNARY)
        check("sync unary, with_call", least(lambda: call.with_call(b"x", timeout=10.0)))


def test_a_blocking_call_that_is_traced_and_measured(target: str) -> None:
    """The cost of a call with its span and its measurement."""
    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    with meshlib.channel(target, tracer_provider=tracers, meter_provider=meters) as channel:
        call = channel.unary_unary(echo.UNARY)
        check("sync unary, span and metric", least(lambda: call(b"x", timeout=10.0)))


def test_a_call_in_asyncio(target: str) -> None:
    """The cost in asyncio with all default policies, no provider."""

    async def run() -> int:
        async with aio.channel(target) as channel:
            call = channel.unary_unary(echo.UNARY)
            return await least_async(lambda: call(b"x", timeout=10.0))

    check("asyncio unary", asyncio.run(run()))
