"""Run a step of a test in the middle of other code: at one chosen instruction of meshlib.

CPython runs signal handlers, finalizers and weak reference callbacks at certain points: at a function's start, after a
call, after a jump back, and where a container is allocated. Tests count these points first, and then interrupt at each
of them in turn.
"""

import dis
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any, Final

import meshlib

__all__ = ["PLAIN", "count", "interrupt", "points"]

OURS: Final = str(Path(meshlib.__file__).parent)
EVERY: Final = 7
"""One of this many points is tried, unless ``MESHLIB_EVERY_POINT`` is set."""

PLAIN: Final = frozenset(
    {
        "CACHE", "COMPARE_OP", "CONTAINS_OP", "COPY", "EXTENDED_ARG", "IS_OP", "JUMP_FORWARD", "LOAD_ATTR",
        "LOAD_CONST", "LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_BORROW_LOAD_FAST_BORROW",
        "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST", "LOAD_GLOBAL", "LOAD_SMALL_INT", "NOP", "NOT_TAKEN",
        "POP_EXCEPT", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE",
        "POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_IF_FALSE", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE",
        "POP_JUMP_IF_TRUE", "POP_TOP", "PUSH_EXC_INFO", "RERAISE", "BINARY_OP", "RETURN_CONST",
        "RETURN_VALUE", "STORE_ATTR", "STORE_DEREF", "STORE_FAST", "STORE_FAST_LOAD_FAST",
        "STORE_FAST_STORE_FAST", "SWAP", "TO_BOOL", "UNARY_NOT",
    }
)  # fmt: skip
"""Instructions that make no call, no jump back and no allocation tracked by the collector. CPython does not check for
pending work after them."""


@cache
def _places(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which CPython checks for pending work."""
    found = set()
    before = "RETURN_VALUE"
    for instruction in dis.get_instructions(code):
        if before not in PLAIN and instruction.opname != "PUSH_EXC_INFO":
            found.add(instruction.offset)
        if "BACKWARD" in instruction.opname and "NO_INTERRUPT" not in instruction.opname:
            found.add(instruction.argval)
        before = instruction.opname
    return frozenset(found)


_TRACERS: Final[list[object]] = []
"""Every trace function, for good. CPython 3.11 sometimes releases one that raised once too often; the next frame then
calls whatever is in its place: ``'traceback' object is not callable``, or a crash of the process."""


def _nothing() -> None:
    """The step of an interruption that has ended."""


class _Interruption:
    """Run ``step`` at point number ``at`` of code whose file begins with one of ``where``."""

    def __init__(self, where: tuple[str, ...], at: int, step: Callable[[], object]) -> None:
        self.seen = 0
        self._where = where
        self._at = at
        self._step = step
        self._thread = threading.get_ident()
        self._inside = False
        self.tracer = self.trace

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Callback for ``sys.settrace``."""
        if event == "call" and not frame.f_code.co_filename.startswith(self._where):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and frame.f_lasti in _places(frame.f_code):
            self._place()
        return self.tracer

    def monitor(self, code: CodeType, offset: int) -> object:
        """Callback for ``sys.monitoring``, which reports every thread."""
        if not code.co_filename.startswith(self._where):
            return sys.monitoring.DISABLE
        if threading.get_ident() == self._thread and offset in _places(code):
            self._place()
        return None

    def end(self) -> None:
        """Release the step, and what it refers to."""
        self._step = _nothing

    def _place(self) -> None:
        if self._inside:
            return
        self.seen += 1
        if self.seen == self._at:
            self._inside = True
            try:
                self._step()
            finally:
                self._inside = False


def interrupt(
    outer: Callable[[], object], at: int, step: Callable[[], object], where: Iterable[str] = ("_core",)
) -> int:
    """Run ``outer``, and ``step`` at its point number ``at``, counted in the packages ``where`` of meshlib. Return the
    number of points."""
    interruption = _Interruption(tuple(os.path.join(OURS, name) for name in where), at, step)
    if sys.version_info < (3, 12):
        before = sys.gettrace()
        _TRACERS.append(interruption.tracer)
        sys.settrace(interruption.tracer)
        try:
            outer()
        finally:
            sys.settrace(before)
            interruption.end()
        return interruption.seen
    monitoring, event = sys.monitoring, sys.monitoring.events.INSTRUCTION
    monitoring.use_tool_id(monitoring.DEBUGGER_ID, __name__)
    monitoring.register_callback(monitoring.DEBUGGER_ID, event, interruption.monitor)
    monitoring.set_events(monitoring.DEBUGGER_ID, event)
    monitoring.restart_events()
    try:
        outer()
    finally:
        monitoring.set_events(monitoring.DEBUGGER_ID, 0)
        monitoring.register_callback(monitoring.DEBUGGER_ID, event, None)  # it would hold references of the step
        monitoring.free_tool_id(monitoring.DEBUGGER_ID)
    return interruption.seen


def count(outer: Callable[[], object], where: Iterable[str] = ("_core",)) -> int:
    """Count the points of ``outer``."""
    return interrupt(outer, 0, lambda: None, where)


def points(total: int, rng: Random, every: int = EVERY) -> range:
    """The points to interrupt at: one in ``every`` starting at a random one, or all."""
    if os.environ.get("MESHLIB_EVERY_POINT"):
        return range(1, total + 1)
    return range(1 + rng.randrange(every), total + 1, every)
