"""One channel in one process: its machine, its control plane and its subchannels."""

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from meshlib._adapt.errors import MeshRpcError
from meshlib._adapt.grpcio import channel as grpc_channel
from meshlib._control import exits
from meshlib._control.cluster_driver import ClusterDriver
from meshlib._control.logs import ChannelLog
from meshlib._control.settings import Settings
from meshlib._control.shortage import Shortage, starting
from meshlib._core.call import Call
from meshlib._core.cluster import ClusterMachine
from meshlib._core.commands import Close, Wake
from meshlib._core.host import HostEntry
from meshlib._core.status import Outcome, local
from meshlib._sync import control
from meshlib._sync.connectivity import Connectivity
from meshlib._sync.control import Process
from meshlib._sync.subchannels import CLOSED_CHANNEL, Factory, Subchannel
from meshlib._sync.waiting import Timer

if TYPE_CHECKING:
    from meshlib.telemetry._channel import Telemetry

__all__ = ["INSIDE_LOOP", "ChannelHandle", "Runtime"]

INSIDE_LOOP: Final[Outcome] = local(
    "UNAVAILABLE",
    "no connection can be made: the interpreter is exiting, and the only thread that could connect is inside an outer "
    "call; make no calls in signal handlers and callbacks at exit, or set a timeout",
)
"""The end of a call without a deadline that would wait for ever."""


@final
class Runtime:
    """The live part of a channel, made at its first call and left behind at a fork. Nobody knows of it before
    :meth:`start`.

    Args:
        settings: what the channel is built from.
        process: whose control thread it uses.
        connectivity: told the channel's own state whenever it changes, on the control thread.
        telemetry: of the channel.
        factory: makes grpc channels.
    """

    def __init__(
        self,
        settings: Settings,
        process: Process,
        *,
        connectivity: Connectivity,
        telemetry: "Telemetry",
        factory: Factory = grpc_channel,
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.process = process
        self.clock = process.clock
        self.now = process.clock.now
        self.closed = False
        self.live = True
        """Of use: neither closed nor left behind at a fork."""
        self.aside = 0
        """Attempts no thread is blocked in: those of futures and streams."""
        self._factory = factory
        self._connectivity = connectivity
        self.cluster = ClusterMachine(
            settings.target.text,
            balancer=settings.balancer,
            rng=self.clock.rng(),
            threads=self.clock,
            budget=settings.retry_budget,
            throttling=settings.retry_throttling,
            outlier_detection=settings.outlier_detection,
            circuit_breaker=settings.circuit_breaker,
            attention=self._attention,
            observer=ChannelLog(settings.target.text),
            watched=lambda: connectivity.watched,
        )
        self.driver = ClusterDriver(
            self.cluster,
            lambda: self._resolutions.get(settings.source),
            self,
            clock=self.now,
            build_aside=settings.builds_aside,
        )

    def start(self) -> None:
        """Begins, on the control thread. A signal handler may raise in the middle: :meth:`shutdown` then ends it."""
        self.loop, self._resolutions = self.process.attach(self)
        self.loop.call_soon_threadsafe(self.driver.start)

    # The pool, on the control thread.

    def open(self, host: HostEntry) -> Subchannel:
        """A subchannel for ``host``."""
        return Subchannel(host, self.settings, self.process.sharing, self._factory)

    def close(self, host: HostEntry, subchannel: Any) -> None:
        """Ends a subchannel, on a thread of its own: grpc may wait for callbacks of the user's."""
        self.clock.spawn(subchannel.close, f"meshlib-close-{host.endpoint.address}")

    def diagnose(self, host: HostEntry, subchannel: Any, told: Callable[[HostEntry, str], None]) -> None:
        """Asks a subchannel why it fails, on a thread of its own."""

        def ask() -> None:
            reason = subchannel.reason()
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody wants to know
                self.loop.call_soon_threadsafe(told, host, reason)

        self.clock.spawn(ask, f"meshlib-diagnose-{host.endpoint.address}")

    def state_changed(self, state: int) -> None:
        """The channel's own state is another."""
        self._connectivity.changed(state)

    def hurry(self) -> None:
        """Somebody begins to wait for the channel to be ready."""
        self.cluster.hurry(now=self.now())
        self.driver.attention()

    # Calls.

    def wait(self, call: Call) -> bool:
        """Blocks the calling thread until ``call`` is woken or its timer is due. False: neither would ever be, since
        this thread would have to wake it."""
        event = self.clock.event()
        call.waker = event.set
        if not call.woken:
            timer = call.next_timer()
            if timer is None and self.clock.inside_loop:
                return False
            event.wait(None if timer is None else min(max(0.0, timer - self.now()), threading.TIMEOUT_MAX))
        return True

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer | None:
        """Has the control thread call ``fn`` at ``when``, a monotonic second; None if there is no such thread any more.
        Any thread may ask for it."""
        try:
            return Timer(self.loop, self.clock, when, fn)
        except RuntimeError:
            return None

    def soon(self, fn: Callable[[], object]) -> None:
        """Has the control thread call ``fn``, if there still is one in this process. Any thread may ask for it."""
        if self.process is control.current() and not sys.is_finalizing():
            with contextlib.suppress(RuntimeError):  # the loop has ended with the last channel, and all calls with it
                self.loop.call_soon_threadsafe(fn)

    def resolve_now(self) -> None:
        """Has the name looked up at once."""
        self.loop.call_soon_threadsafe(self.driver.resolve_now)

    def blocked(self) -> int:
        """Attempts that threads are inside of."""
        return max(0, self.cluster.in_flight - self.aside)

    # The end.

    def shutdown(self) -> None:
        """Closes the channel: waiting calls end at once, attempts are cancelled, connections closed. Idempotent."""
        self.closed = True
        self.live = False
        self._end(lambda _, subchannel: subchannel.close())
        self.process.detach(self, self.driver.stop)

    def abandon(self) -> None:
        """The same for a channel that was collected: nobody is there to wait, so a thread does it. At the exit of the
        interpreter nothing is done: it takes the connections with it."""
        if self.process.pid == os.getpid() and not self.closed and not exits.threadless():
            self.clock.spawn(self.shutdown, "meshlib-abandoned")

    def _end(self, close: Callable[[HostEntry, Any], None]) -> None:
        """Performs what the end of the channel asks for."""
        commands = self.cluster.close(now=self.now())
        for command in commands:
            if isinstance(command, Wake):
                for call in command.calls:
                    call.wake()
        for command in commands:
            if isinstance(command, Close):
                close(command.host, command.subchannel)

    def _attention(self) -> None:
        if self.closed:
            # A thread had something left to do when the channel closed, and the control thread may be gone.
            self._end(self.close)
        else:
            self.driver.attention()


@final
class ChannelHandle:
    """What a channel shares with its multicallables and its calls: the way to the runtime.

    When the last of them is collected and nobody closed the channel, the runtime ends, as grpc's channel would.

    Args:
        settings: what the channel is built from.
        connectivity: told the channel's own state whenever it changes.
        telemetry: of the channel.
        factory: makes grpc channels.
    """

    __slots__ = ("__weakref__", "_connectivity", "_factory", "closed", "latest", "settings", "telemetry")

    def __init__(
        self,
        settings: Settings,
        connectivity: Connectivity,
        telemetry: "Telemetry",
        *,
        factory: Factory = grpc_channel,
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.closed = False
        self._connectivity = connectivity
        self._factory = factory
        self.latest: Runtime | None = None
        """The last one made: in use as long as it is live."""
        telemetry.watch(self)

    @property
    def present(self) -> Runtime | None:
        """The runtime in this process, if the channel has been used in it."""
        runtime = self.latest
        return runtime if runtime is not None and runtime.process is control.current() else None

    def runtime(self) -> Runtime:
        """The runtime, made at the first call in this process.

        Raises:
            ValueError: the channel is closed.
            MeshRpcError: there is no thread or no descriptor for it.
        """
        runtime = self.latest
        if runtime is None or not runtime.live:
            return self.renew()
        return runtime

    def renew(self) -> Runtime:
        """Makes the runtime, if it is not there yet. Two threads, or a thread and its signal handler, may do so at
        once: one of the two is shut down again.

        Raises:
            ValueError: the channel is closed.
            MeshRpcError: there is no thread or no descriptor for it.
        """
        process = control.usable()
        if self.closed:
            raise ValueError(CLOSED_CHANNEL)
        before = self.latest
        if before is not None and before.process is process:
            return before
        made = Runtime(
            self.settings, process, connectivity=self._connectivity, telemetry=self.telemetry, factory=self._factory
        )
        finalizer: weakref.finalize[[], ChannelHandle] | None = None
        try:
            try:
                with starting(first=process.idle):
                    made.start()
            except Shortage as shortage:
                raise MeshRpcError(shortage.outcome, shortage.outcome.details, shortage.mesh) from shortage
            if not exits.threadless():
                finalizer = weakref.finalize(self, made.abandon)
                finalizer.atexit = False
            if self.latest is before and not self.closed:  # uninterrupted
                self.latest = made  # uninterrupted
                return made
        finally:
            if self.latest is not made:
                if finalizer is not None:
                    finalizer.detach()
                made.shutdown()
        # One that was closed meanwhile ends the call as CANCELLED: it had begun.
        return made if self.closed else self.renew()

    def close(self) -> None:
        """Closes the channel in this process. Idempotent."""
        self.closed = True
        runtime = self.present
        if runtime is not None and not runtime.closed:
            runtime.shutdown()
