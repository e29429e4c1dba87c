"""Connectivity of a channel for its subscribers: ``subscribe`` and what grpc builds on it."""

from collections.abc import Callable
from typing import Final, final

import grpc

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._core.connectivity import IDLE, SHUTDOWN
from meshlib._core.serial import WorkSerializer
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
    """Notifies subscribers of the state: each change once, in order, on a thread that lives while changes are pending.

    Args:
        clock: spawns the thread.
    """

    def __init__(self, clock: Clock = CLOCK) -> None:
        self.state = IDLE
        self._process = control.current()
        self._clock = clock
        self._serializer = WorkSerializer(clock)
        self._subscribers: list[tuple[Callback, list[int]]] = []
        self._untold = False
        """A notification is pending."""
        self._delivering = False

    @property
    def watched(self) -> bool:
        """Whether there are subscribers."""
        return bool(self._subscribers)

    def changed(self, state: int) -> None:
        """Set the channel's state and notify the subscribers."""

        def step() -> None:
            if self.state != SHUTDOWN:
                self.state = state
                for _, untold in self._subscribers:
                    untold.append(state)
                self._untold = bool(self._subscribers)

        self._run(step)

    def subscribe(self, callback: Callback) -> None:
        """Notify ``callback`` of the current state and of every later one."""

        def step() -> None:
            self._subscribers.append((callback, [self.state]))
            self._untold = True

        self._run(step)

    def unsubscribe(self, callback: Callback) -> None:
        """Stop notifying ``callback``."""

        def step() -> None:
            for position, (known, _) in enumerate(self._subscribers):
                if known == callback:
                    del self._subscribers[position]
                    break

        self._run(step)

    def close(self) -> None:
        """Set the final state and drop all subscribers."""

        def step() -> None:
            self.state = SHUTDOWN
            self._subscribers.clear()

        self._run(step)

    def _run(self, step: Callable[[], None]) -> None:
        """Run ``step``, or leave it to the step that this one interrupts; then deliver pending notifications."""
        self._own()
        self._serializer.run(step, None)
        self._deliver()

    def _own(self) -> None:
        """Reset in a forked child: a thread of the parent may have been inside a step, and the state is that of the
        parent's connections."""
        if self._process is control.current():
            return
        subscribers = [(callback, [IDLE]) for callback, _ in self._subscribers]
        self.__init__(self._clock)
        self._subscribers = subscribers

    def _deliver(self) -> None:
        if self._untold and not self._delivering:  # uninterrupted
            self._delivering = True  # uninterrupted
            try:
                self._clock.spawn(self._tell, "meshlib-connectivity")
            except BaseException:
                self._delivering = False
                raise

    def _tell(self) -> None:
        while True:
            due = self._serializer.run(self._take, None, later=False)
            if due is None:
                continue  # after waiting for a thread that is inside a step
            if not due:
                self._delivering = False
                self._deliver()  # for changes since the check
                return
            for callback, state in due:
                try:
                    callback(STATES[state])
                except Exception:  # noqa: BLE001 - it is the application's
                    _log.exception("connectivity: a callback raised; the other callbacks still run")

    def _take(self) -> list[tuple[Callback, int]]:
        due = [(callback, untold.pop(0)) for callback, untold in self._subscribers if untold]
        self._untold = bool(due)
        return due
