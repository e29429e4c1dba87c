"""One channel in one process: its machine, its cluster driver and its subchannels."""

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
"""The outcome of a call without a deadline that would wait forever."""


@final
class Runtime:
    """The live part of a channel, made at its first call and left behind at a fork. It has no effect before
    :meth:`start`.

    Args:
        settings: of the channel.
        process: whose control thread it uses.
        connectivity: notified of each change of the channel's state, on the control thread.
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
        """Usable: neither closed nor left behind at a fork."""
        self.aside = 0
        """Number of attempts that block no thread: those of futures and streams."""
        self._factory = factory
        self._connectivity = connectivity
        config = settings.config.cluster
        name = config.target.text
        self.cluster = ClusterMachine(
            name,
            config.policy,
            rng=self.clock.rng(),
            threads=self.clock,
            attention=self._attention,
            observer=ChannelLog(name),
            watched=lambda: connectivity.watched,
        )
        self.driver = ClusterDriver(
            self.cluster,
            lambda: self._resolutions.get(config.source),
            self,
            clock=self.now,
            build_aside=config.policy.builds_aside,
        )

    def start(self) -> None:
        """Start on the control thread. If a signal handler raises meanwhile, :meth:`shutdown` must follow."""
        self.loop, self._resolutions = self.process.attach(self)
        self.loop.call_soon_threadsafe(self.driver.start)

    # The pool, on the control thread.

    def open(self, host: HostEntry) -> Subchannel:
        """Make a subchannel for ``host``."""
        settings = self.settings
        return Subchannel(
            host, settings.config.cluster, settings.attempt_interceptors, self.process.sharing, self._factory
        )

    def close(self, host: HostEntry, subchannel: Any) -> None:
        """Close a subchannel, on a separate thread: grpc may wait for the user's callbacks."""
        self.clock.spawn(subchannel.close, f"meshlib-close-{host.endpoint.address}")

    def diagnose(self, host: HostEntry, subchannel: Any, told: Callable[[HostEntry, str], None]) -> None:
        """Ask a subchannel why it fails, on a separate thread."""

        def ask() -> None:
            reason = subchannel.reason()
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the reason is not needed
                self.loop.call_soon_threadsafe(told, host, reason)

        self.clock.spawn(ask, f"meshlib-diagnose-{host.endpoint.address}")

    def state_changed(self, state: int) -> None:
        """Pass on the channel's new state."""
        self._connectivity.changed(state)

    def hurry(self) -> None:
        """Poll faster: a caller starts to wait for the channel to be ready."""
        self.cluster.hurry(now=self.now())
        self.driver.attention()

    # Calls.

    def wait(self, call: Call) -> bool:
        """Block the calling thread until ``call`` is woken or its timer is due. False: neither could happen, since only
        this thread could wake it."""
        event = self.clock.event()
        call.waker = event.set
        if not call.woken:
            timer = call.next_timer()
            if timer is None and self.clock.inside_loop:
                return False
            event.wait(None if timer is None else min(max(0.0, timer - self.now()), threading.TIMEOUT_MAX))
        return True

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer | None:
        """Call ``fn`` on the control thread at ``when``, in monotonic seconds; None if that thread has ended. Any
        thread may call this."""
        try:
            return Timer(self.loop, self.clock, when, fn)
        except RuntimeError:
            return None

    def soon(self, fn: Callable[[], object]) -> None:
        """Call ``fn`` on the control thread, if this process still has one. Any thread may call this."""
        if self.process is control.current() and not sys.is_finalizing():
            with contextlib.suppress(RuntimeError):  # the loop has ended with the last channel, and all calls with it
                self.loop.call_soon_threadsafe(fn)

    def resolve_now(self) -> None:
        """Resolve the name at once."""
        self.loop.call_soon_threadsafe(self.driver.resolve_now)

    def blocked(self) -> int:
        """Number of attempts that block a thread."""
        return max(0, self.cluster.in_flight - self.aside)

    # The end.

    def shutdown(self) -> None:
        """Close the channel: end waiting calls at once, cancel attempts, close connections. Idempotent."""
        self.closed = True
        self.live = False
        try:
            self._end(lambda _, subchannel: subchannel.close())
            self.process.detach(self, self.driver.stop)
        except BaseException:  # out of a signal handler: a thread does the rest
            self.clock.spawn(self.shutdown, "meshlib-close")
            raise

    def abandon(self) -> None:
        """Shut down on a separate thread: the channel was collected, so no caller can wait. Do nothing at the exit of
        the interpreter, which closes the connections."""
        if self.process.pid == os.getpid() and not self.closed and not exits.threadless():
            self.clock.spawn(self.shutdown, "meshlib-abandoned")

    def _end(self, close: Callable[[HostEntry, Any], None]) -> None:
        """Perform the machine's commands for the end of the channel."""
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
            # A thread had a step left to do when the channel closed, and the control thread may have ended.
            self._end(self.close)
        else:
            self.driver.attention()


@final
class ChannelHandle:
    """The part of a channel that its multicallables and calls share: access to the runtime.

    If the last of them is collected and the channel was not closed, the runtime ends, as grpc's channel would.

    Args:
        settings: of the channel.
        connectivity: notified of each change of the channel's state.
        telemetry: of the channel.
        factory: makes grpc channels.
    """

    __slots__ = ("__weakref__", "_connectivity", "_factory", "closed", "latest", "plans", "settings", "telemetry")

    def __init__(
        self,
        settings: Settings,
        connectivity: Connectivity,
        telemetry: "Telemetry",
        *,
        factory: Factory = grpc_channel,
    ) -> None:
        self.settings = settings
        self.plans = settings.config.listener.plans
        """Those of the current configuration; every call looks its own up."""
        self.telemetry = telemetry
        self.closed = False
        self._connectivity = connectivity
        self._factory = factory
        self.latest: Runtime | None = None
        """The last runtime made: in use while it is live."""
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
            MeshRpcError: the process is out of threads or file descriptors.
        """
        runtime = self.latest
        if runtime is None or not runtime.live:
            return self.renew()
        return runtime

    def renew(self) -> Runtime:
        """Make the runtime, if there is none yet. Two threads, or a thread and its signal handler, may each make one at
        once: one of the two is shut down again.

        Raises:
            ValueError: the channel is closed.
            MeshRpcError: the process is out of threads or file descriptors.
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
        # A runtime that was closed meanwhile ends the call as CANCELLED: it had begun.
        return made if self.closed else self.renew()

    def close(self) -> None:
        """Close the channel in this process. Idempotent."""
        self.closed = True
        runtime = self.present
        if runtime is not None:
            runtime.shutdown()  # also a second time: an exception may have cut the first one short
