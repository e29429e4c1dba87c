"""Instructions of the interpreter on the calling thread, for ``instructions.py`` and the test of the hot path.

``sys.monitoring`` counts where CPython has it, ``sys.settrace`` on 3.11; the counts differ from one Python to the next.
The work of C-core and other extensions is not Python and not counted.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

__all__ = ["Count", "Owner", "least"]

Owner = Callable[[str], str | None]
"""Returns whose a source file is; None: its instructions are not counted."""


class Count:
    """Instructions of a ``with`` block by the owner of their file, without those of the block itself.

    Args:
        owner: decides whose instructions are counted.
    """

    def __init__(self, owner: Owner) -> None:
        self.found: Counter[str] = Counter()
        self._owner = owner
        self._thread = threading.get_ident()
        self._before: Any = None

    def __enter__(self) -> Self:
        if sys.version_info < (3, 12):
            self._before = sys.gettrace()
            sys.settrace(self._trace)  # sees only functions called from now on
            return self
        monitoring, event = sys.monitoring, sys.monitoring.events.INSTRUCTION
        monitoring.use_tool_id(monitoring.PROFILER_ID, __name__)
        monitoring.register_callback(monitoring.PROFILER_ID, event, self._instruction)
        monitoring.set_events(monitoring.PROFILER_ID, event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if sys.version_info < (3, 12):
            sys.settrace(self._before)
            return
        sys.monitoring.set_events(sys.monitoring.PROFILER_ID, 0)
        sys.monitoring.free_tool_id(sys.monitoring.PROFILER_ID)

    def _whose(self, file: str) -> str | None:
        return None if file == __file__ else self._owner(file)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        whose = self._whose(frame.f_code.co_filename)
        if whose is None:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self.found[whose] += event == "opcode"
        return self._trace

    def _instruction(self, code: CodeType, _: int) -> object:
        whose = self._whose(code.co_filename)
        if whose is None:
            return sys.monitoring.DISABLE
        if threading.get_ident() == self._thread:  # every thread is reported
            self.found[whose] += 1
        return None


def least(call: Callable[[], object], owner: Owner, *, warm_up: int, calls: int) -> Counter[str]:
    """Return the instructions of one call, the cheapest of ``calls``: a sweep or another search for a provider may fall
    into any."""
    for _ in range(warm_up):
        call()
    found = []
    for _ in range(calls):
        with Count(owner) as count:
            call()
        found.append(count.found)
    return min(found, key=Counter.total)
