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
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
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
ROOT = Path(__file__).parents[3]
OURS = str(Path(meshlib.__file__).parent)
CALLS = 20
SLACK = 0.05
"""Fraction by which a count may fall below the file before the file must be rewritten."""


def _counting() -> Any:
    """The module with which the benchmark of instructions counts, too."""
    spec = spec_from_file_location("counting", ROOT / "benchmarks" / "counting.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


counting = _counting()


def ours(file: str) -> str | None:
    """Only meshlib's own code is counted."""
    return "meshlib" if file.startswith(OURS) else None


def least(call: Callable[[], object]) -> int:
    """The instructions of one call, the cheapest of several."""
    return int(counting.least(call, ours, warm_up=CALLS, calls=CALLS).total())


async def least_async(call: Callable[[], Awaitable[object]]) -> int:
    """The same for asyncio."""
    for _ in range(CALLS):
        await call()
    found = []
    for _ in range(CALLS):
        with counting.Count(ours) as count:
            await call()
        found.append(count.found.total())
    return int(min(found))


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
