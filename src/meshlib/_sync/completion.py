"""The end of a call that blocks nobody: its outcome, and the threads and callbacks that wait for it."""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._core.call import CallCommands
from meshlib._core.deadlines import LONGEST
from meshlib._core.explanation import deadline_exceeded
from meshlib._core.status import Outcome
from meshlib._sync.attempts import AttemptRunner, GrpcCall
from meshlib._sync.runtime import INSIDE_LOOP
from meshlib._sync.waiting import ThreadContext

__all__ = ["Completion"]

T = TypeVar("T")

_log = DeferredLogger("meshlib")

LATE: Final = 0.5
"""Seconds after its deadline at which a thread that waits for a call ends it, if grpc does not."""


class Completion(AttemptRunner):
    """The end of one call.

    Args:
        arguments: those of :class:`~meshlib._sync.attempts.AttemptRunner`.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.outcome: Outcome | None = None
        """How the call ended, from then on."""
        self.source: GrpcCall | None = None
        """The attempt that speaks for the call, once it has ended."""
        self._callbacks: deque[Callable[[], None]] = deque()
        """Each is called by the thread that takes it out."""
        self._due: float | None = None
        """Monotonic second at which the timer of the machine is due."""

    def cancel(self, outcome: Outcome, thread: ThreadContext = ThreadContext.USER) -> bool:
        """Ends the call with ``outcome``; False if it has ended already."""
        raise NotImplementedError

    def _expired(self, *, now: float) -> CallCommands:
        """The input for the timer."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until the call has ended; False if it has not after ``timeout`` seconds."""
        if timeout is not None and not timeout <= LONGEST:
            timeout = None  # as grpc, which waits in steps: no clock of the system takes as much
        if self.outcome is not None:
            return True
        deadline = self.call.deadline
        left = None if deadline is None else max(0.0, deadline - self.runtime.now()) + LATE
        if left is None or (timeout is not None and timeout <= left):
            return self.wait_for(lambda: self.outcome, timeout) is not None
        if self.wait_for(lambda: self.outcome, left) is None:
            # grpc's thread that would say so waits for a thread that is beneath this one.
            self.cancel(self._late())
        return self.outcome is not None

    def wait_for(self, ready: Callable[[], T | None], timeout: float | None = None) -> T | None:
        """Blocks until ``ready()`` returns something, which is returned; None after ``timeout`` seconds."""
        if not self.runtime.clock.inside_loop:
            return self.monitor.wait_for(ready, timeout)
        # Nobody runs the timers of the call but this thread.
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
        """Something, if the wait is over or has another end than before."""
        return True if ready() is not None or self._due != due or (endless and self._idle()) else None

    def _idle(self) -> bool:
        """Whether no attempt is under way that could end the call."""
        return all(attempt.reported for attempt in list(self._attempts.values()))

    def _late(self) -> Outcome:
        """The end of a call whose deadline passed while nobody said how its attempt ended."""
        call = self.call
        return deadline_exceeded(call.method, call.cluster.name, None, "grpc has not said how the call ended", "")

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Has ``callback`` called once at the end of the call; False, and it is not, if that is over."""
        if self.outcome is not None:
            return False
        once = partial(callback)  # equal to no other
        self._callbacks.append(once)
        if self.outcome is None:
            return True
        try:
            self._callbacks.remove(once)
        except ValueError:  # it has been taken out to be called
            return True
        return False

    def _call_back(self) -> None:
        """Runs the callbacks, each once."""
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                callback()
            except Exception:  # noqa: BLE001 - it is the application's, and others wait for their turn
                _log.exception("call: a callback raised: callback=%s", repr(callback))
