"""The end of a non-blocking call: its outcome, and the threads and callbacks that wait for it."""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.metadata import Metadata
from meshlib._control.invocation import Invocation
from meshlib._core.call import Call, CallCommands
from meshlib._core.deadlines import LONGEST
from meshlib._core.explanation import deadline_exceeded
from meshlib._core.status import Outcome
from meshlib._sync.attempts import AttemptRunner, GrpcCall
from meshlib._sync.requests import Requests
from meshlib._sync.runtime import INSIDE_LOOP, Runtime
from meshlib._sync.waiting import ThreadContext

__all__ = ["Completion"]

T = TypeVar("T")

_log = DeferredLogger("meshlib")

LATE: Final = 0.5
"""Seconds after the deadline at which a waiting thread ends the call, if grpc does not."""


class Completion(AttemptRunner):
    """The end of one call.

    Args:
        runtime: of the channel.
        call: the machine.
        invocation: the call.
        request: the request as bytes, or the stream of them.
        metadata: the application's and telemetry's.
    """

    def __init__(
        self, runtime: Runtime, call: Call, invocation: Invocation, request: bytes | Requests, metadata: Metadata
    ) -> None:
        super().__init__(runtime, call, invocation, request, metadata)
        self.outcome: Outcome | None = None
        """The outcome; None while the call runs."""
        self.source: GrpcCall | None = None
        """The attempt whose metadata and response are the call's, once it has ended."""
        self._callbacks: deque[Callable[[], None]] = deque()
        """Each is called by the thread that removes it."""
        self._due: float | None = None
        """When the machine's timer is due, in monotonic seconds."""

    def cancel(self, outcome: Outcome, thread: ThreadContext = ThreadContext.USER) -> bool:
        """End the call with ``outcome``; False if it has ended already."""
        raise NotImplementedError

    def _expired(self, *, now: float) -> CallCommands:
        """Report the expired timer to the state machine of the call."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the call has ended; False if it has not after ``timeout`` seconds."""
        if timeout is not None and not timeout <= LONGEST:
            timeout = None  # as grpc, which waits in steps: no system clock takes so long a timeout
        if self.outcome is not None:
            return True
        deadline = self.call.deadline
        left = None if deadline is None else max(0.0, deadline - self.runtime.now()) + LATE
        if left is None or (timeout is not None and timeout <= left):
            return self.wait_for(lambda: self.outcome, timeout) is not None
        if self.wait_for(lambda: self.outcome, left) is None:
            # grpc's thread, which would report the end, waits for a thread that this one interrupted.
            self.cancel(self._late())
        return self.outcome is not None

    def wait_for(self, ready: Callable[[], T | None], timeout: float | None = None) -> T | None:
        """Block until ``ready()`` returns something and return that; None after ``timeout`` seconds."""
        if not self.runtime.clock.inside_loop:
            return self.monitor.wait_for(ready, timeout)
        # No other thread runs the call's timers.
        end = math.inf if timeout is None else self.runtime.now() + timeout
        while True:
            due = math.inf if self._due is None else self._due
            until = min(end, due)
            if until == math.inf and ready() is None and self._idle():
                self.cancel(INSIDE_LOOP)
            turn = partial(self._turn, ready, self._due, until == math.inf)
            left = None if until == math.inf else max(0.0, until - self.runtime.now())
            self.monitor.wait_for(turn, left)
            found = ready()
            if found is not None or self.runtime.now() >= end:
                return found
            if self._due is not None and self.runtime.now() >= self._due:
                self._run(self._expired, ThreadContext.USER)

    def _turn(self, ready: Callable[[], object], due: float | None, endless: bool) -> object:
        """Not None if the wait is over or its end has moved."""
        return True if ready() is not None or self._due != due or (endless and self._idle()) else None

    def _idle(self) -> bool:
        """Whether no attempt in flight could end the call."""
        return all(attempt.reported for attempt in list(self._attempts.values()))

    def _late(self) -> Outcome:
        """The outcome of a call whose deadline passed without a report of its attempt's end."""
        call = self.call
        return deadline_exceeded(call.method, call.cluster.name, None, "grpc has not said how the call ended", "")

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` once at the end of the call; if the call has ended, return False without calling it."""
        if self.outcome is not None:
            return False
        once = partial(callback)  # equal to no other
        self._callbacks.append(once)
        if self.outcome is None:
            return True
        try:
            self._callbacks.remove(once)
        except ValueError:  # another thread took it out and calls it
            return True
        return False

    def _call_back(self) -> None:
        """Run the callbacks, each once."""
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                callback()
            except Exception:  # noqa: BLE001 - the application's; the other callbacks still run
                _log.exception("call: a callback raised: callback=%s", repr(callback))
