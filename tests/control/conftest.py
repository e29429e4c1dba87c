"""An event loop with virtual time: it jumps to the next timer when no callback is ready."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

OFFSET = 1e6
"""The clock of the code under test differs from any loop's: mixing them up waits for days or not at all."""


class JumpingSelector(selectors.SelectSelector):
    """Never blocks."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits and no timer is set")
        if not ready and timeout is not None and timeout > 0:
            self.skipped += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.skipped


Main = Callable[[Callable[[], float]], Coroutine[Any, Any, None]]


@pytest.fixture
def virtually() -> Callable[[Main], None]:
    """``virtually(main)`` runs ``main(clock)`` to its end without real waits."""

    def run(main: Main) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            loop = runner.get_loop()
            runner.run(main(lambda: loop.time() + OFFSET))

    return run
