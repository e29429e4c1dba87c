"""The end of an asyncio call: its outcome, the tasks and callbacks that wait for it, and its final status."""

import asyncio
import logging
from collections.abc import Callable
from copy import copy
from typing import Any

import grpc
import grpc.aio

from meshlib._adapt.errors import AioMeshRpcError, status_code
from meshlib._aio.attempts import AttemptRunner
from meshlib._core.call import Call
from meshlib._core.status import Outcome
from meshlib._core.view import CallMesh

__all__ = ["Completion"]

_log = logging.getLogger("meshlib")


class Completion(AttemptRunner):
    """The end of one call."""

    outcome: Outcome | None = None
    """The outcome; None while the call runs."""
    last: int = 0
    """The attempt whose end is the call's; 0: none."""
    holder: Callable[[], Any] | None = None
    """For a call with a stream: returns the application's handle; None once that was released."""
    _callbacks: tuple[Callable[[Any], None], ...] = ()
    _waiters: tuple["asyncio.Future[None]", ...] = ()
    """One for each wait for the end."""
    loop: asyncio.AbstractEventLoop

    def _arm(self) -> None:
        """Set the machine's timer."""
        raise NotImplementedError

    def handle(self) -> Any:
        """The application's handle, for its callbacks; None once released."""
        return self if self.holder is None else self.holder()

    async def finished(self) -> Outcome:
        """Wait for the end of the call."""
        if self.failed:
            await self.turn()
        while self.outcome is None:
            waiter = self.waiter()
            try:
                if self.outcome is None:
                    await waiter
            finally:
                self._waiters = tuple(other for other in self._waiters if other is not waiter)
        return self.outcome

    def waiter(self) -> "asyncio.Future[None]":
        """A future that is done when the call ends. Check the outcome between this and the await: a signal handler or a
        finalizer may end the call at any time."""
        waiter = self.loop.create_future()
        self._waiters = (*self._waiters, waiter)
        return waiter

    async def turn(self) -> None:
        """Let other tasks run. A rejected call waits for nothing: an application that repeats it in a loop would block
        the event loop, and the resolver's answer would never arrive."""
        await asyncio.sleep(0)

    def cancelled(self) -> bool:
        return self.outcome is not None and self.outcome.code == "CANCELLED"

    def done(self) -> bool:
        return self.outcome is not None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.outcome is not None:
            callback(self.handle())
        else:
            self._callbacks = (*self._callbacks, callback)

    def _run(self, callback: Callable[[Any], None]) -> None:
        try:
            callback(self.handle())
        except Exception:  # noqa: BLE001 - it is the application's
            _log.exception("%s: a done callback raised; the other callbacks still run", self.method.name)

    def _call_back(self) -> None:
        """Run the callbacks, each once."""
        while self._callbacks:
            callback, *rest = self._callbacks
            self._callbacks = tuple(rest)
            self._run(callback)

    @property
    def locally_cancelled(self) -> bool:
        """Whether the application, or the closing channel, ended it: then ``await`` raises ``CancelledError``."""
        outcome = self.outcome
        return outcome is not None and outcome.local and outcome.code == "CANCELLED"

    async def initial_metadata(self) -> grpc.aio.Metadata:
        await self.finished()
        attempt = self.attempts.get(self.call.committed)
        known: grpc.aio.Metadata
        if self.locally_cancelled and attempt is not None:
            known = await attempt.initial_metadata()  # received before the call was cancelled
        else:
            known = await self._said("initial_metadata", grpc.aio.Metadata())
        return known

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        known: grpc.aio.Metadata = await self._said("trailing_metadata", grpc.aio.Metadata())
        return known

    async def code(self) -> grpc.StatusCode:
        if self.outcome is None and self.call.plan.attempt_limit is not None:
            self.call.on_reading(now=self._now())
            self._arm()
        return status_code((await self.finished()).code)

    async def details(self) -> str:
        known: str = await self._said("details", (await self.finished()).details)
        return known

    async def debug_error_string(self) -> str | None:
        known: str | None = await self._said("debug_error_string", None)
        return known

    @property
    def failed(self) -> bool:
        """Whether the call ended in an error: that is :attr:`error`."""
        outcome = self.outcome
        return outcome is not None and outcome.code != "OK" and not self.locally_cancelled

    @property
    def error(self) -> BaseException:
        """The exception of a failed call: grpc's own if there was one attempt, else one that describes all.

        A new one each time, as in grpc.aio. Do not keep it in a variable: once raised it holds the frames it passed,
        and they hold the call.
        """
        assert self.outcome is not None
        return _failure(self.call, self.outcome)

    async def raise_for_status(self) -> None:
        """Wait for the end, and raise it unless the call succeeded."""
        await self.finished()
        if self.locally_cancelled:
            raise asyncio.CancelledError
        if self.failed:
            raise self.error

    async def _said(self, what: str, otherwise: Any) -> Any:
        """``what`` of the error, or of the attempt that ended the call with success."""
        await self.finished()
        if self.failed:
            told = getattr(self.error, what, None)
            return otherwise if told is None else told()
        if self.last in self.attempts:
            return await getattr(self.attempts[self.last], what)()
        return otherwise


def _failure(call: Call, outcome: Outcome) -> BaseException:
    mesh = CallMesh(call, outcome)
    error: Any = outcome.error
    if error is None or isinstance(error, grpc.aio.AioRpcError):
        details = call.details(outcome)
        # INTERNAL, which grpc.aio reports for a lost race, does not come from a server.
        several = len(call.attempts) > 1 or details != outcome.details
        if error is None or several or error.code().name != outcome.code:
            return AioMeshRpcError(outcome, details, mesh, call.explain(outcome))
        error = copy(error)
        error.mesh = mesh
    return error  # type: ignore[no-any-return]
