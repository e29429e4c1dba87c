"""The request stream of a call: read once from the application, sent by each attempt.

grpc reads the requests of an attempt on a separate thread, as on any channel. Here that thread first reads the
buffered requests. Then it takes turns at the application's iterator with the threads of other attempts: one thread
pulls at a time, and all attempts get its request. So a request that a failed attempt's thread was waiting for goes to
the next attempt. No thread takes a lock: application threads stop attempts and commit the call, also from a signal
handler.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, final

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._core.attempts.replay import Replay
from meshlib._core.status import Outcome, local
from meshlib._sync.clock import Clock
from meshlib._sync.waiting import Monitor

__all__ = ["ITERATING_FAILED", "SERIALIZING_FAILED", "Consumer", "Requests"]

_log = DeferredLogger("meshlib")

ITERATING_FAILED: Final = local("UNKNOWN", "Exception iterating requests!")
SERIALIZING_FAILED: Final = local("INTERNAL", "Exception serializing request!")

_PULL: Final = object()
"""This thread may pull from the application's iterator."""
_END: Final = object()
"""There is nothing more to send."""


class Consumer(Protocol):
    """The call that sends the requests."""

    def commit(self, n: int, why: str) -> bool:
        """Commit the call to attempt ``n``; False if that is no longer possible."""
        ...

    def fail(self, outcome: Outcome) -> None:
        """End the call with ``outcome``: there is nothing to send."""
        ...


@final
class Requests:
    """The requests of one call.

    Args:
        iterator: of the application.
        serializer: converts a request to bytes; None: requests are bytes.
        method: its name, for messages.
        limit: bytes kept for replay.
        clock: of the channel.
    """

    __slots__ = (
        "_buffer",
        "_committed",
        "_iterator",
        "_method",
        "_monitor",
        "_over",
        "_pulling",
        "_serializer",
        "_stopped",
    )

    def __init__(
        self, iterator: Any, serializer: Callable[[Any], Any] | None, method: str, limit: int, clock: Clock
    ) -> None:
        self._iterator = iterator
        self._serializer = serializer
        self._method = method
        self._buffer = Replay(limit)
        self._monitor = Monitor(clock)
        self._stopped: set[int] = set()
        self._pulling = False
        self._committed = 0
        self._over = False

    def feed(self, call: Consumer, n: int) -> Iterator[bytes]:
        """The requests for attempt ``n``, from the first.

        It ends with the stream of requests, or when the attempt is stopped. Between the end of a call and the stop of
        its attempt it waits: grpc takes the end of this iterator for the end of the stream, and would half-close a
        stream that the server has not received in full.
        """
        index = 0
        while (message := self._message(call, n, index)) is not None:
            index += 1
            yield message

    def stop(self, n: int) -> None:
        """End the iterator of attempt ``n``, which was cancelled or has ended."""
        self._stopped.add(n)
        self._monitor.notify()

    def committed(self, n: int) -> None:
        """Keep requests for attempt ``n`` only: no other needs those it has sent."""
        self._committed = n

    def close(self) -> None:
        """Release the application's iterator: the call has ended."""
        self._over = True
        self._iterator = None

    def _message(self, call: Consumer, n: int, index: int) -> bytes | None:
        # When grpc pulls the next request, the earlier ones are being sent.
        if index and self._committed != n and not self._buffer.replayable and not call.commit(n, "buffer"):
            # The attempt is being stopped: wait for that, and send nothing.
            self._monitor.wait_for(lambda: n in self._stopped or None)
        while True:
            turn = self._monitor.wait_for(lambda: self._turn(n, index))
            if turn is _END:
                return None
            if turn is not _PULL:
                assert isinstance(turn, bytes)
                return turn
            self._pull(call)

    def _turn(self, n: int, index: int) -> object:
        """The next action of attempt ``n``'s thread; None: it waits."""
        if n in self._stopped:
            return _END
        if self._over:
            return None
        buffer = self._buffer
        if self._committed == n:
            buffer.drop(index)
        elif self._committed:
            return None
        half_closed = buffer.half_closed  # read before the messages, which come first
        if index < buffer.end:
            try:
                return buffer[index]
            except IndexError:
                return None  # the call was just committed to another attempt
        if half_closed:
            return _END
        if self._pulling:  # uninterrupted
            return None
        self._pulling = True  # uninterrupted
        if index < buffer.end or buffer.half_closed:  # another thread has just pulled it
            self._pulling = False
            self._monitor.notify()  # another thread may have seen the turn as taken
            return self._turn(n, index)
        return _PULL

    def _pull(self, call: Consumer) -> None:
        """Take one request from the application, for all attempts."""
        failure: Outcome | None = None
        data: bytes | None = None
        iterator = self._iterator
        if iterator is None:
            return  # the call has just ended; this thread is being stopped
        try:
            request = next(iterator)
        except StopIteration:
            pass
        except BaseException as error:
            if not self._over:
                _log.exception("%s: the request iterator raised", self._method)
            failure = ITERATING_FAILED
            if not isinstance(error, Exception):
                self._pulled(None, failure)
                call.fail(failure)
                raise
        else:
            data = self._bytes(request)
            if data is None:
                failure = SERIALIZING_FAILED
        self._pulled(data, failure)
        if failure is not None:
            call.fail(failure)

    def _bytes(self, request: Any) -> bytes | None:
        try:
            data = request if self._serializer is None else self._serializer(request)
        except Exception:  # noqa: BLE001 - it is the application's
            _log.exception("%s: the request serializer raised", self._method)
            return None
        if isinstance(data, bytes):
            return data
        _log.error("%s: the request serializer returned %s instead of bytes", self._method, type(data).__name__)
        return None

    def _pulled(self, data: bytes | None, failure: Outcome | None) -> None:
        if failure is not None:
            self._over = True
        elif data is None:
            self._buffer.half_closed = True
        else:
            self._buffer.append(data)
        self._pulling = False
        self._monitor.notify()
