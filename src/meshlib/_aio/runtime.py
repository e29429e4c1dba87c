"""One channel on one event loop: its machine, its cluster driver, its subchannels and its calls in flight."""

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import grpc.aio

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.errors import AioMeshRpcError
from meshlib._adapt.grpcio import aio_channel
from meshlib._adapt.interceptors import by_kind
from meshlib._aio import control
from meshlib._aio.connectivity import CLOSED_CHANNEL, Connectivity
from meshlib._aio.control import Process
from meshlib._aio.subchannels import Factory, Subchannel
from meshlib._control.cluster_driver import ClusterDriver
from meshlib._control.logs import ChannelLog
from meshlib._control.settings import Settings
from meshlib._control.shortage import Shortage, starting
from meshlib._control.timers import clock_of
from meshlib._core.cluster import ClusterMachine
from meshlib._core.commands import Close
from meshlib._core.connectivity import TRANSIENT_FAILURE
from meshlib._core.host import HostEntry

if TYPE_CHECKING:
    from meshlib.telemetry._channel import Telemetry

__all__ = ["ChannelHandle", "Runtime"]

_log = DeferredLogger("meshlib")

MOST_SHUTDOWNS: Final = 8
"""Maximum restarts of the shutdown after exceptions: one raised each time does not come from a signal handler."""
SECOND_LOOP = (
    "This channel belongs to the event loop of its first call, which is still open; this call runs on another loop. "
    "Make one channel per event loop, or close the first loop: the channel then restarts on the next loop."
)


class LiveCall(Protocol):
    """A call in flight."""

    def cancel(self) -> bool:
        """End the call; return False if it has ended already."""
        ...


@final
class Runtime:
    """The live part of a channel, made at its first call and left behind with its loop or at a fork.

    Args:
        settings: of the channel.
        process: whose resolutions it shares.
        loop: of the application.
        connectivity: notified of each change of the channel's state.
        telemetry: of the channel.
        factory: makes channels of grpc.aio.
    """

    def __init__(
        self,
        settings: Settings,
        process: Process,
        loop: asyncio.AbstractEventLoop,
        *,
        connectivity: Connectivity,
        telemetry: "Telemetry",
        factory: Factory = aio_channel,
    ) -> None:
        self.settings = settings
        self.process = process
        self.loop = loop
        self.now = clock_of(loop)
        self.telemetry = telemetry
        self.closed = False
        self.calls: set[LiveCall] = set()
        """The calls in flight."""
        self._probes: dict[HostEntry, Any] = {}
        """Calls that probe why subchannels fail."""
        self._ended = False
        """The shutdown is complete."""
        self._shutdowns = 0
        self._subchannels: set[Subchannel] = set()
        """The open ones."""
        self._factory = factory
        self._connectivity = connectivity
        config = settings.config.cluster
        name = config.target.text
        self.cluster = ClusterMachine(
            name,
            config.policy,
            rng=process.clock.rng(),
            attention=self._attention,
            observer=ChannelLog(name),
            watched=lambda: connectivity.watched,
        )
        self.driver = ClusterDriver(
            self.cluster,
            lambda: process.resolutions(loop).get(config.source),
            self,
            clock=self.now,
            build_aside=config.policy.builds_aside,
        )
        process.runtimes.add(self)
        # Not here: a signal handler or a finalizer may make the first call, in the middle of the loop's own code.
        loop.call_soon_threadsafe(self.driver.start)

    # The pool.

    def open(self, host: HostEntry) -> Subchannel:
        """Make a subchannel for ``host``."""
        settings = self.settings
        subchannel = Subchannel(
            host, settings.config.cluster, settings.attempt_interceptors, self.process.sharing, self._factory
        )
        self._subchannels.add(subchannel)
        return subchannel

    def close(self, host: HostEntry, subchannel: Any) -> None:
        """Close a subchannel."""
        subchannel.close()
        self._subchannels.discard(subchannel)

    def diagnose(self, host: HostEntry, subchannel: Any, told: Callable[[HostEntry, str], None]) -> None:
        """Ask a subchannel why it fails."""
        if subchannel.state(False) != TRANSIENT_FAILURE:
            return

        def done(reason: str) -> None:
            self._probes.pop(host, None)
            told(host, reason)

        self._probes[host] = None
        call = subchannel.probe(done)
        if host in self._probes:
            self._probes[host] = call

    def state_changed(self, state: int) -> None:
        """Pass on the channel's new state."""
        self._connectivity.changed(state)

    def hurry(self) -> None:
        """Poll faster: a caller starts to wait for the channel to be ready."""
        self.cluster.hurry(now=self.now())
        self.driver.attention()

    def resolve_now(self) -> None:
        """Resolve the name at once."""
        with suppress(RuntimeError):  # another thread closed the loop just now
            self.loop.call_soon_threadsafe(self.driver.resolve_now)

    # The end.

    def shutdown(self) -> None:
        """End every call, close every connection, stop resolving. Idempotent; on the loop.

        If a signal handler raises in the middle, the event loop starts the shutdown again, which does the rest.
        """
        if self._ended:
            return
        self.closed = True
        try:
            for call in self.calls.copy():
                call.cancel()
            self.driver.stop()
            # Those that an exception kept the control plane from closing; twice, as one may be raised here, too.
            for subchannel in [*self._subchannels, *self._subchannels]:
                self._close(subchannel)
            self._ended = True
        except BaseException:
            self._shutdowns += 1
            if self._shutdowns < MOST_SHUTDOWNS and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self.shutdown)
            raise

    @property
    def shut_down(self) -> bool:
        """Whether :meth:`shutdown` is complete."""
        return self._ended

    def _close(self, subchannel: Subchannel) -> None:
        """Close a subchannel that the control plane left open when an exception interrupted it."""
        try:
            subchannel.close()
            self._subchannels.discard(subchannel)
        except Exception:  # noqa: BLE001 - the others are closed all the same
            _log.exception("control plane: failed to execute %s; continuing", f"<close {subchannel.target}>")

    def discard(self) -> None:
        """Shut down an unused runtime: the channel has another, which owns its state."""
        self._connectivity = Connectivity()
        self.shutdown()

    def abandon(self) -> None:
        """Shut down after the channel was collected, on any thread and in any process.

        Leave the objects of a closed loop alone: nothing can run there any more, and grpc.aio's own channels close
        themselves.
        """
        if self.process is control.current() and not self._ended and not self.loop.is_closed():
            with suppress(RuntimeError):  # another thread closed the loop just now
                self.loop.call_soon_threadsafe(self.shutdown)

    def leave(self) -> None:
        """Release the connections of a runtime whose loop was closed, before the next cyclic collection. Until then
        grpc.aio keeps the loop: every one, if a channel is used on one loop after the other."""
        self.closed = self._ended = True
        self._subchannels.clear()
        for command in self.cluster.close(now=0.0):
            if isinstance(command, Close):
                command.host.subchannel = None  # grpc.aio's channel closes itself when it is freed

    def _attention(self) -> None:
        self.driver.attention()


@final
class ChannelHandle:
    """The part of a channel that its multicallables and calls share: access to the runtime.

    If the last of them is collected and the channel was not closed, the runtime ends, as grpc's channel would.

    Args:
        settings: of the channel.
        telemetry: of the channel.
        factory: makes channels of grpc.aio.

    Raises:
        ValueError: an interceptor is not a grpc.aio interceptor.
    """

    __slots__ = (
        "__weakref__",
        "_factory",
        "_finalizer",
        "_runtime",
        "closed",
        "connectivity",
        "intercepted",
        "interceptors",
        "plans",
        "settings",
        "telemetry",
    )

    def __init__(self, settings: Settings, telemetry: "Telemetry", factory: Factory = aio_channel) -> None:
        self.settings = settings
        self.plans = settings.config.listener.plans
        """Those of the current configuration; every call looks its own up."""
        self.telemetry = telemetry
        self.closed = False
        self.connectivity = Connectivity()
        self.interceptors = {kind: list(given) for kind, given in by_kind(settings.interceptors).items()}
        """By kind of call. The lists are live: libraries append to them, and replace them, as those of grpc.aio."""
        by_kind(settings.attempt_interceptors)
        self.intercepted: weakref.WeakSet[Any] = weakref.WeakSet()
        """Calls whose interceptors may still be running."""
        self._factory = factory
        self._runtime: Runtime | None = None
        self._finalizer: weakref.finalize[[], ChannelHandle] | None = None
        telemetry.watch(self)

    @property
    def present(self) -> Runtime | None:
        """The runtime, if the channel has been used in this process on a loop that is still open."""
        runtime = self._runtime
        if runtime is None or runtime.process is not control.current() or runtime.loop.is_closed():
            return None
        return runtime

    def refresh(self) -> None:
        """Drop a runtime whose loop was closed, or which belongs to a parent process: the channel starts again."""
        left = self._runtime
        if left is not None and self.present is None and not self.closed:
            self._runtime = None
            if left.process is control.current():
                left.leave()
            self.connectivity.renew()
            self.release()

    def release(self) -> None:
        """Detach the finalizer of an ended runtime: it would keep the runtime until this is collected."""
        if self._finalizer is not None:
            self._finalizer.detach()

    def runtime(self) -> Runtime:
        """The runtime on the caller's loop, made at the first call there.

        Raises:
            grpc.aio.UsageError: the channel is closed, or serves another loop that is still open.
            RuntimeError: no event loop is running or set.
            AioMeshRpcError: the process is out of file descriptors.
        """
        if self.closed:
            raise grpc.aio.UsageError(CLOSED_CHANNEL)
        process = control.current()
        loop = process.clock.loop()
        runtime = self._runtime
        if runtime is not None and runtime.loop is loop and runtime.process is process:
            return runtime
        if runtime is not None and runtime.process is process and not runtime.loop.is_closed():
            raise grpc.aio.UsageError(SECOND_LOOP)
        self.refresh()
        try:
            with starting(first=not process.runtimes):
                made = Runtime(
                    self.settings,
                    process,
                    loop,
                    connectivity=self.connectivity,
                    telemetry=self.telemetry,
                    factory=self._factory,
                )
        except Shortage as shortage:
            raise AioMeshRpcError(shortage.outcome, shortage.outcome.details, shortage.mesh) from shortage
        if self._runtime is not None or self.closed:
            # A signal handler or a finalizer made the first call, or closed the channel, meanwhile.
            made.discard()
            return self.runtime()
        self._runtime = made
        self._finalizer = weakref.finalize(self, made.abandon)
        self._finalizer.atexit = False
        return made
