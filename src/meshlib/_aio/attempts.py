"""The attempts of an asyncio call: start them with grpc.aio, cancel them, report their ends."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import grpc.aio

from meshlib._adapt import outcomes
from meshlib._adapt.metadata import Metadata, for_attempt
from meshlib._aio.waiting import Condition
from meshlib._control.invocation import Invocation
from meshlib._control.methods import Method
from meshlib._core.attempt import AttemptRecord
from meshlib._core.call import Call
from meshlib._core.commands import CallCommand
from meshlib._core.status import OK, Outcome, local

__all__ = ["LOCAL_DETAILS", "AttemptRunner", "Step"]

Step = Callable[[], tuple[CallCommand, ...]]
"""An input of the machine, bound to its arguments."""

LOCAL_DETAILS: Final = "Locally cancelled by application!"


class AttemptRunner:
    """The attempts of one call. Each kind of call defines how an attempt is sent and when it has ended."""

    call: Call
    method: Method
    outcome: Outcome | None
    last: int
    attempts: dict[int, Any]
    """grpc's call objects by number, while they are needed."""
    given_up: frozenset[int] = frozenset()
    """Attempts that the mesh or the application has cancelled."""
    _now: Callable[[], float]
    _invocation: Invocation
    _metadata: Metadata
    _condition: Condition | None

    def feed(self, step: Step) -> None:
        """Feed the machine one input, and perform its commands."""
        raise NotImplementedError

    def counts(self, n: int) -> bool:
        """Whether the answers of attempt ``n`` may reach the application: it is in flight, or its end is the call's."""
        return self.call.attempts[n - 1].outcome is None or self.last == n

    def live(self) -> list[int]:
        """The attempts to await: the committed or last one if there is one, else all in flight."""
        if self.outcome is not None:
            return [self.last] if self.last in self.attempts else []
        committed = self.call.committed
        if committed:
            return [committed] if committed in self.attempts else []
        return [n for n in tuple(self.attempts) if self.call.attempts[n - 1].outcome is None]

    def request(self, n: int) -> Any:
        """The request of attempt ``n``, in grpc's form. Defined by each kind."""
        raise NotImplementedError

    def follow(self, n: int, attempt: Any) -> None:
        """Watch for the end of attempt ``n``. Defined by each kind."""
        raise NotImplementedError

    def left(self) -> None:
        """Called when an attempt, or the call, has ended. Defined by each kind."""

    def attempt_ended(self, n: int, error: BaseException | None) -> None:
        """Report the end of attempt ``n``, with ``error`` or success. Only the first report counts."""
        attempt = self.call.attempts[n - 1]
        if attempt.seconds is not None:
            return
        now = self._now()
        if error is None:
            outcome = OK
        elif isinstance(error, grpc.aio.AioRpcError):
            subchannel: Any = attempt.host.subchannel
            error.__traceback__ = None  # its frames are grpc.aio's, and hold the attempt
            outcome = outcomes.failed(error, subchannel.target, error.trailing_metadata())
        elif isinstance(error, asyncio.CancelledError):
            outcome = Outcome("CANCELLED", LOCAL_DETAILS, local=True)  # a server may have seen it
            if n not in self.given_up:
                # The task that read or wrote was cancelled, and grpc.aio cancelled the attempt with it.
                self.given_up |= {n}
                outcome = local("CANCELLED", LOCAL_DETAILS)
                self.feed(partial(self.call.on_cancel, outcome, now=now))
        else:
            # Bad metadata, a request that is not bytes: the caller gets the exception of grpc.aio.
            outcome = Outcome("INTERNAL", f"{type(error).__name__}: {error}", sent=False, local=True, error=error)
        self.feed(partial(self._report, attempt, outcome, now))
        if self.outcome is None:
            self._notify()
            self.left()

    def _report(self, attempt: AttemptRecord, outcome: Outcome, now: float) -> tuple[CallCommand, ...]:
        """The input for the end of an attempt, unless the same was queued before."""
        return self.call.on_outcome(attempt.n, outcome, now) if attempt.seconds is None else ()

    def _start(self, record: AttemptRecord) -> None:
        subchannel: Any = record.host.subchannel
        try:
            # Recorded before it is followed: an exception may be raised between the two.
            self.attempts[record.n] = attempt = subchannel.multicallables[self.method](
                self.request(record.n),
                timeout=record.timeout,
                metadata=for_attempt(self._metadata, record.previous, record.carrier),
                credentials=self._invocation.credentials,
                compression=self._invocation.compression,
            )
            self.follow(record.n, attempt)
        except Exception as error:  # noqa: BLE001 - whatever it is, the in-flight count must be decremented
            self.give_up(record.n)  # grpc may have it
            self.attempt_ended(record.n, error)
            return
        if self._condition is not None:
            self._condition.notify()

    def give_up(self, n: int) -> None:
        self.given_up |= {n}
        attempt = self.attempts.get(n)
        if attempt is not None:
            attempt.cancel()  # first: an exception in between must leave no attempt that is in no table
            if n != self.call.committed:
                self.attempts.pop(n, None)

    def _notify(self) -> None:
        if self._condition is not None:
            self._condition.notify()
