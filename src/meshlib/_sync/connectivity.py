"""The state of a channel for those who watch it: ``subscribe`` and what grpc builds on it."""

import threading
from collections.abc import Callable
from typing import Final, final

import grpc

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._core.connectivity import IDLE, SHUTDOWN
from meshlib._sync import control
from meshlib._sync.clock import CLOCK, Clock

__all__ = ["Connectivity"]

_log = DeferredLogger("meshlib")

STATES: Final = (
    grpc.ChannelConnectivity.IDLE,
    grpc.ChannelConnectivity.CONNECTING,
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)

Callback = Callable[[grpc.ChannelConnectivity], None]


@final
class Connectivity:
    """Tells subscribers the state, each change once and in order, on a thread that lives while there is news.

    Args:
        clock: spawns the thread.
    """

    def __init__(self, clock: Clock = CLOCK) -> None:
        self.state = IDLE
        self._process = control.current()
        self._clock = clock
        self._lock = threading.Lock()
        self._subscribers: list[tuple[Callback, list[int]]] = []
        self._delivering = False

    @property
    def watched(self) -> bool:
        """Whether anybody is told."""
        return bool(self._subscribers)

    def changed(self, state: int) -> None:
        """The channel is in ``state`` now."""
        self._own()
        with self._lock:
            if self.state == SHUTDOWN:
                return
            self.state = state
            for _, untold in self._subscribers:
                untold.append(state)
            self._deliver()

    def subscribe(self, callback: Callback) -> None:
        """``callback`` is told the state of now and every later one."""
        self._own()
        with self._lock:
            self._subscribers.append((callback, [self.state]))
            self._deliver()

    def unsubscribe(self, callback: Callback) -> None:
        """``callback`` is told no more."""
        self._own()
        with self._lock:
            for position, (known, _) in enumerate(self._subscribers):
                if known == callback:
                    del self._subscribers[position]
                    break

    def close(self) -> None:
        """The channel is closed, and nobody is told any more."""
        self._own()
        with self._lock:
            self.state = SHUTDOWN
            self._subscribers.clear()

    def _own(self) -> None:
        """Starts afresh in a forked child: the lock may be held by a thread that is not here, and the state is that of
        the parent's connections."""
        if self._process is control.current():
            return
        subscribers = [(callback, [IDLE]) for callback, _ in self._subscribers]
        self.__init__(self._clock)
        self._subscribers = subscribers

    def _deliver(self) -> None:
        if not self._delivering and any(untold for _, untold in self._subscribers):
            self._delivering = True
            self._clock.spawn(self._run, "meshlib-connectivity")

    def _run(self) -> None:
        while True:
            with self._lock:
                due = [(callback, untold.pop(0)) for callback, untold in self._subscribers if untold]
                if not due:
                    self._delivering = False
                    return
            for callback, state in due:
                try:
                    callback(STATES[state])
                except Exception:  # noqa: BLE001 - it is the application's
                    _log.exception("a connectivity callback raised; the others are told all the same")
