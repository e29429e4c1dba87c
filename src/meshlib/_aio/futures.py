"""The application's handle of a call, and its ``await``.

For a call with a stream the application holds a handle and not the engine. Nothing else holds that handle, so its
collection cancels the call.
"""

import asyncio
import sys
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio

from meshlib._aio.engine import GC_DETAILS, LOCAL_DETAILS, Engine
from meshlib._aio.waiting import follow, guarded
from meshlib._core.status import OK
from meshlib._core.view import CallMesh

__all__ = ["Handle", "UnaryResponse"]


class UnaryResponse(Engine):
    """A call that can be awaited, by any number of tasks."""

    _response: Any = None

    def follow(self, n: int, attempt: Any) -> None:
        """Await the attempt."""
        follow(attempt.__await__(), partial(self._followed, n), self.cut_short)

    def _followed(self, n: int, response: Any, error: BaseException | None) -> None:
        if error is None and self.outcome is None:
            self._response = response
        self.attempt_ended(n, error)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            if self.outcome is not None and self.failed:
                yield from self.turn().__await__()
            while self.outcome is None:
                waiter = self.waiter()
                if self.outcome is None:
                    yield from waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.outcome is not OK:
            if self.locally_cancelled:
                raise asyncio.CancelledError
            if self.failed:
                raise self.error
        return self._response


class Handle:
    """The application's handle of a call with a stream."""

    _engine: Any

    def hold(self, engine: Engine, *, kept: bool = False) -> None:
        """Start ``engine``, the one of this call; ``kept``: it runs on without the application's reference."""
        self._engine = engine
        known = weakref.ref(self)
        engine.holder = (lambda: self) if kept else known
        engine.begin()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is None or engine.outcome is not None:
            return
        loop = engine.runtime.loop
        if loop.is_closed() or sys.is_finalizing():
            return
        engine.holder = lambda: self
        # Not here: this may run at any point of any thread.
        with suppress(RuntimeError):  # another thread closed the loop just now
            loop.call_soon_threadsafe(guarded(engine.cancel, engine.cut_short), GC_DETAILS)

    def cancel(self) -> bool:
        cancelled: bool = self._engine.cancel(LOCAL_DETAILS)
        return cancelled

    def cancelled(self) -> bool:
        return bool(self._engine.cancelled())

    def done(self) -> bool:
        return bool(self._engine.done())

    def time_remaining(self) -> float | None:
        remaining: float | None = self._engine.time_remaining()
        return remaining

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._engine.add_done_callback(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        known: grpc.aio.Metadata = await self._engine.initial_metadata()
        return known

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        known: grpc.aio.Metadata = await self._engine.trailing_metadata()
        return known

    async def code(self) -> grpc.StatusCode:
        known: grpc.StatusCode = await self._engine.code()
        return known

    async def details(self) -> str:
        known: str = await self._engine.details()
        return known

    async def debug_error_string(self) -> str | None:
        known: str | None = await self._engine.debug_error_string()
        return known

    async def wait_for_connection(self) -> None:
        await self._engine.wait_for_connection()

    @property
    def mesh(self) -> CallMesh:
        """The mesh's record of the call so far."""
        known: CallMesh = self._engine.mesh
        return known

    def __repr__(self) -> str:
        engine = self._engine
        return f"<{type(self).__name__} {engine.method.name} {engine.outcome or engine.call.state.value}>"
