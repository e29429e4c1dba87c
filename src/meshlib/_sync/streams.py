"""Calls with a stream of responses.

Messages are read on the application's thread, inside grpc's own ``next()``. Until the first message the call may be
retried. The reader that gets the first message commits the call to its attempt. A reader that gets a failure waits for
the machine's decision. After the first message grpc does the reading, at the cost of one more frame.
"""

from collections.abc import Callable
from typing import Any, Final, final

import grpc

from meshlib._sync.engine import Attempt, Engine
from meshlib._sync.futures import Handle
from meshlib._sync.waiting import ThreadContext

__all__ = ["ResponseStream", "StreamEngine"]

_OVER: Final = object()


@final
class StreamEngine(Engine):
    """A call whose response is a stream."""

    _ahead: tuple[Attempt, Any] | None = None
    """The first message of a hedged call, read before the application's first ``next()``."""

    def first(self) -> tuple[Attempt, Any] | None:
        """Block until the first message of any attempt; None if the call ends without one."""
        if self.call.plan.attempt_limit is not None:
            self.reading()
        if self.call.plan.hedging is not None:
            ahead: Any = self.wait_for(self._found)
            return None if ahead is _OVER else ahead
        while True:
            attempt: Any = self.wait_for(self._readable)
            if attempt is _OVER:
                return None
            found = self._read(attempt, ThreadContext.USER)
            if found is not None:
                return found

    def started(self, attempt: Attempt) -> None:
        """Read the attempts of a hedged call at once, each on a separate thread: the first message wins."""
        if self.call.plan.hedging is not None:
            self._aside(lambda: self._read_ahead(attempt))

    def _readable(self) -> Any:
        """An attempt to read from, or _OVER; None: wait."""
        return self.current() if self.outcome is None else _OVER

    def _found(self) -> Any:
        found = self._ahead  # uninterrupted
        self._ahead = None  # uninterrupted
        return found or (None if self.outcome is None else _OVER)

    def _read_ahead(self, attempt: Attempt) -> None:
        found = self._read(attempt, ThreadContext.ASIDE)
        if found is not None:
            self._ahead = found
            self.monitor.notify()

    def _read(self, attempt: Attempt, thread: ThreadContext) -> tuple[Attempt, Any] | None:
        """Read the first message of ``attempt``; None if it has none, or no longer counts."""
        assert attempt.call is not None
        found: tuple[Attempt, Any] | None = None
        failed = entered = False
        try:
            attempt.readers += 1  # uninterrupted
            entered = True  # uninterrupted
            message = next(attempt.call)
            if self.commit(attempt.record.n, "message"):
                found = attempt, message
                if self.call.plan.attempt_limit is not None:
                    self.read()
        except (StopIteration, grpc.RpcError) as error:
            error.__traceback__ = None  # grpc's error is its call, which its frames hold, and these hold the caller's
            failed = True
        except BaseException:
            self.runtime.soon(self._resume)
            raise
        finally:
            if entered:  # uninterrupted
                attempt.readers -= 1  # uninterrupted
            if failed or (attempt.ended and not attempt.readers):
                self.report(attempt, thread)
        return found


@final
class ResponseStream(Handle):
    """A call with a stream of responses: iterating it reads them."""

    _attempt: Attempt | None = None
    _read: Callable[[], Any] | None = None

    def __iter__(self) -> "ResponseStream":
        return self

    def __next__(self) -> Any:
        read = self._read
        if read is None:
            message = self._first()
            if message is not _OVER:
                return message
        else:
            try:
                return read()
            except (StopIteration, grpc.RpcError) as error:
                error.__traceback__ = None
                assert self._attempt is not None
                self._engine.report(self._attempt, ThreadContext.USER)
        if self._outcome().code == "OK":
            raise StopIteration
        try:
            raise self
        finally:
            del read, self  # its traceback holds this frame, which must not hold it

    def next(self) -> Any:
        """Return the next message, as grpc's call object does."""
        return self.__next__()

    def _first(self) -> Any:
        engine = self._engine
        assert isinstance(engine, StreamEngine)
        found = engine.first()
        if found is None:
            return _OVER
        self._attempt, message = found
        assert self._attempt.call is not None
        self._read = self._attempt.call.__next__ if engine.call.plan.idle is None else self._timed
        return message

    def _timed(self) -> Any:
        """Read one message, limited by ``per_attempt_idle_timeout``."""
        attempt = self._attempt
        assert attempt is not None
        assert attempt.call is not None
        self._engine.reading()
        message = next(attempt.call)
        self._engine.read()
        return message
