"""The driver of a cluster machine: feeds it resolutions and time, and performs its commands."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol, final

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._control.plugins import in_thread
from meshlib._control.rest import RestingChannels, resting_channels
from meshlib._control.timers import TimerHandle, call_at
from meshlib._core.cluster import ClusterMachine
from meshlib._core.cluster_steps import ClusterCommands
from meshlib._core.commands import ClusterCommand, Wake
from meshlib._core.connectivity import TRANSIENT_FAILURE
from meshlib._core.dispatch import dispatch
from meshlib._core.endpoint import Resolution
from meshlib._core.host import HostEntry, Subchannel
from meshlib._core.waiter import Waiter

__all__ = ["Discovery", "ClusterDriver", "Pool"]

_log = DeferredLogger("meshlib")


class Discovery(Protocol):
    """The resolution of one target, perhaps shared with other channels."""

    def subscribe(
        self, on_resolved: Callable[[Resolution], None], on_failed: Callable[[str], None]
    ) -> Callable[[], None]:
        """Report every resolution, starting with the last good one if any; return a function that unsubscribes."""
        ...

    def hurry(self) -> None:
        """Resolve subject to the minimum interval: a host began to fail."""
        ...

    def resolve_now(self) -> None:
        """Resolve now, unless a resolution is running."""
        ...

    @property
    def asked_at(self) -> float | None:
        """Start of the last resolution."""
        ...

    @property
    def next_at(self) -> float | None:
        """Due time of the next one."""
        ...

    @property
    def error(self) -> Exception | None:
        """Error of the last one."""
        ...


class Pool(Protocol):
    """Opens and closes subchannels, and is notified of the channel's state; part of the shell."""

    def open(self, host: HostEntry) -> Subchannel:
        """Return a subchannel for ``host``, not connected yet."""
        ...

    def close(self, host: HostEntry, subchannel: Subchannel) -> None:
        """Close ``subchannel``, the current or former one of ``host``, without waiting."""
        ...

    def diagnose(self, host: HostEntry, subchannel: Any, told: Callable[[HostEntry, str], None]) -> None:
        """Find out why ``subchannel`` fails, without waiting; ``told`` is called on the loop."""
        ...

    def state_changed(self, state: int) -> None:
        """The channel's connectivity is now ``state``."""
        ...


@final
class ClusterDriver:
    """The control plane of one channel. Every method but :meth:`attention` runs on the loop.

    Args:
        cluster: the machine to drive.
        discovery: returns the resolution of its target; called once, on the loop.
        pool: performs Open, Close and StateChanged.
        clock: the machine's clock, in monotonic seconds.
        build_aside: whether a worker thread builds the pickers, because the balancer is the user's own.
    """

    def __init__(
        self,
        cluster: ClusterMachine,
        discovery: Callable[[], Discovery],
        pool: Pool,
        *,
        clock: Callable[[], float],
        build_aside: bool = False,
    ) -> None:
        self._cluster = cluster
        self._find_discovery = discovery
        self._discovery: Discovery | None = None
        self._pool = pool
        self._clock = clock
        self._build_aside = build_aside
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: TimerHandle | None = None
        self._rest: RestingChannels | None = None
        self._building: asyncio.Task[object] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._asked = False
        self._stopped = False

    def start(self) -> None:
        """Subscribe to the resolution and run until :meth:`stop`."""
        if self._stopped or self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._rest = resting_channels(self._clock)
        self._discovery = self._find_discovery()
        self._step()
        self._unsubscribe = self._discovery.subscribe(self._on_resolved, self._on_failed)

    def attention(self) -> None:
        """Schedule a step of the machine. Any thread may call this, any number of times."""
        loop = self._loop
        if loop is None or self._asked:
            return
        self._asked = True
        try:
            loop.call_soon_threadsafe(self._step)
        except RuntimeError:
            # The loop was closed after the check: the channel is closing, or its process is ending.
            self._asked = False
        except BaseException:  # from a signal handler: the next call must schedule a step
            self._asked = False
            raise

    @property
    def resolution(self) -> Discovery | None:
        """The resolution of the target, once started."""
        return self._discovery

    def resolve_now(self) -> None:
        """Resolve now."""
        if self._discovery is not None:
            self._discovery.resolve_now()

    def stop(self) -> None:
        """Stop: unsubscribe, close every host, wake every waiting call."""
        if self._stopped:
            return
        self._stopped = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
        if self._rest is not None:
            self._rest.forget(self)
        if self._building is not None:
            self._building.cancel()
        self._perform(self._cluster.close(now=self._clock()))

    def _on_resolved(self, resolution: Resolution) -> None:
        if not self._stopped:
            self._perform(self._cluster.on_resolved(resolution, now=self._clock()))
            self._arm()

    def _on_failed(self, reason: str) -> None:
        if not self._stopped:
            self._perform(self._cluster.on_resolution_failed(reason, now=self._clock()))
            self._arm()

    def _on_reason(self, host: HostEntry, reason: str) -> None:
        if not self._stopped:
            self._cluster.on_reason(host, reason, now=self._clock())

    def _step(self) -> None:
        self._asked = False
        if self._stopped:
            # Work that a thread left when the channel closed.
            self._perform(self._cluster.close(now=self._clock()))
            return
        self._perform(self._cluster.on_timer(now=self._clock()))
        self._arm()

    def look(self, early: float = 0.0) -> None:
        """Handle a timer that is due within ``early`` seconds; most often no connection has changed."""
        if self._stopped:
            return
        if self._cluster.look(now=self._clock(), early=early):
            self._arm()
        else:
            self._step()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        assert self._loop is not None
        assert self._rest is not None
        at = None if self._stopped else self._cluster.next_timer()
        if at is not None and self._cluster.resting:
            self._rest.put(self, at)
            return
        self._rest.forget(self)
        if at is not None:
            self._timer = call_at(self._loop, self._clock, at, self.look)

    def _perform(self, commands: Iterable[ClusterCommand]) -> None:
        pending = list(commands)
        while pending:
            # Wakes first: a failing command must not delay waiting calls.
            pending.sort(key=lambda command: not isinstance(command, Wake))
            command = pending.pop(0)
            try:
                pending.extend(dispatch(command, self))
            except Exception:  # noqa: BLE001 - a failed command must not stop the others
                _log.exception("control plane: failed to execute %s; continuing", repr(command))

    # Ports of the machine.

    def open(self, host: HostEntry) -> ClusterCommands:
        """Make a subchannel for ``host``."""
        now = self._clock()
        try:
            subchannel = self._pool.open(host)
            subchannel.glance()  # starts connecting now, not at the first poll
        except Exception:  # noqa: BLE001 - a failing host must not stop the driver
            _log.exception("%s: failed to create the grpc channel; the host counts as failing", host.endpoint.address)
            return self._cluster.on_connectivity(host, TRANSIENT_FAILURE, now=now)
        return self._cluster.opened(host, subchannel, now=now)

    def close(self, host: HostEntry, subchannel: Any) -> None:
        """Close ``subchannel`` in the pool."""
        assert subchannel is not None
        self._pool.close(host, subchannel)

    def diagnose(self, host: HostEntry, subchannel: Any) -> None:
        """Ask ``subchannel`` why it fails."""
        self._pool.diagnose(host, subchannel, self._on_reason)

    def wake(self, calls: tuple[Waiter, ...]) -> None:
        """Wake waiting calls."""
        for call in calls:
            call.wake()

    def state_changed(self, state: int) -> None:
        """Pass on the connectivity of the channel."""
        self._pool.state_changed(state)

    def request_reresolution(self) -> None:
        """Have the target resolved again."""
        assert self._discovery is not None
        self._discovery.hurry()

    def rebuild(self) -> ClusterCommands:
        """Build a picker for the current hosts, here or in a worker thread."""
        if not self._build_aside:
            return self._cluster.rebuild(now=self._clock())
        if self._building is None:
            assert self._loop is not None
            building = self._loop.create_task(self._rebuild_aside(), name="meshlib picker")
            if not building.done():  # an eager task may be
                self._building = building
        return ()

    async def _rebuild_aside(self) -> None:
        """Build the picker off the loop: the balancer is the user's own and may be slow."""
        try:
            await in_thread(lambda: self._cluster.rebuild_aside(now=self._clock()), "meshlib-picker")
        finally:
            self._building = None
        self._step()
