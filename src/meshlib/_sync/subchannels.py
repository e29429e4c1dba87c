"""The connection to one host: grpc's own channel to one address, and its multicallables, made once per method."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, final

import grpc

from meshlib._adapt import grpcio
from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._adapt.reasons import PROBE, PROBE_SECONDS, reason
from meshlib._control.channel_config import ClusterConfig
from meshlib._control.methods import Method
from meshlib._core.bounded_cache import BoundedCache
from meshlib._core.connectivity import TRANSIENT_FAILURE
from meshlib._core.host import HostEntry
from meshlib._core.sharing import Sharing

__all__ = ["CLOSED_CHANNEL", "Subchannel"]

_log = DeferredLogger("meshlib")

CLOSED_CHANNEL = "Cannot invoke RPC on closed channel!"
"""grpc's text of the ``ValueError`` for a call on a closed channel, to the letter."""

Factory = Callable[[str, tuple[tuple[str, Any], ...], grpc.ChannelCredentials | None, grpc.Compression | None], Any]


@final
class Subchannel:
    """One grpc channel to one address.

    Args:
        host: the host it connects to.
        cluster: the configuration of its cluster.
        interceptors: run for each attempt.
        sharing: of the process.
        factory: makes the grpc channel.
    """

    __slots__ = ("_channel", "_made", "_make", "_nested", "glance", "multicallables", "silent", "state", "target")

    def __init__(
        self,
        host: HostEntry,
        cluster: ClusterConfig,
        interceptors: tuple[Any, ...] = (),
        sharing: Sharing | None = None,
        factory: Factory = grpcio.channel,
    ) -> None:
        self.target, options = cluster.subchannel(host, sharing)
        self._make = partial(factory, self.target, options, cluster.credentials, cluster.compression)
        self._channel = self._make()
        self.state: Callable[[bool], int] = grpcio.sync_state(self._channel)
        self.glance: Callable[[], int | None] = grpcio.sync_glance(self._channel)
        self._made = [_Registry(self._channel, interceptors)]
        self._nested = partial(_Registry, interceptors=interceptors)
        self.multicallables: BoundedCache[Method, Any] = self._made[0].multicallables
        """grpc's multicallables by method, from bytes to messages. ``ValueError``: the channel is closed; the text is
        grpc's."""
        self.silent = False
        """The thread that delivers the ends of futures and streams is missing: see :meth:`deliver`."""

    def reason(self) -> str:
        """Why the connection fails; empty: it does not, or the channel is closed."""
        try:
            if self.state(False) != TRANSIENT_FAILURE:
                return ""
            self._channel.unary_unary(PROBE)(b"", timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            return reason(error.code(), error.details())
        except ValueError:
            pass  # the channel was closed just now
        return ""

    def nested(self, depth: int) -> BoundedCache[Method, Any]:
        """The multicallables of a non-blocking call, for a thread with ``depth`` nested grpc calls on its stack. They
        belong to a separate grpc channel over the same connection."""
        while len(self._made) <= depth:
            self._made.append(self._nested(self._make()))
            if self._made[0].closed:
                self.close()
        return self._made[depth].multicallables

    def unstarted(self, depth: int, error: BaseException) -> bool:
        """Note that a call of :meth:`nested` failed to start; return whether C-core has it nonetheless."""
        sent, silent = grpcio.unstarted(error)
        if silent:
            self._made[depth].silent = self.silent = True
        return sent

    def deliver(self) -> None:
        """Start the missing threads.

        Raises:
            RuntimeError: the process still cannot start one.
        """
        self.silent = False
        try:
            for registry in list(self._made):
                registry.deliver()
        except BaseException:
            self.silent = True
            raise

    def close(self) -> None:
        """Close the connection and end every call on it."""
        if self.silent:
            try:
                self.deliver()
            except RuntimeError:  # grpc would wait forever
                _log.warning("%s: connection left open: no thread could be started to close it", self.target)
                return
        for registry in list(self._made):
            registry.close()


@final
class _Registry:
    """Registers methods with one grpc channel, and closes it.

    C-core crashes if a method is registered while the channel is being closed. No thread waits: the last one to
    register a method closes the channel.

    Args:
        channel: grpc's.
        interceptors: run for each attempt.
    """

    __slots__ = ("_calls", "_channel", "_close", "_registering", "closed", "multicallables", "silent")

    def __init__(self, channel: Any, interceptors: tuple[Any, ...]) -> None:
        calls: Any = grpcio.Compressing(channel)
        self._calls = grpc.intercept_channel(calls, *interceptors) if interceptors else calls
        self._close: deque[Callable[[], object]] = deque([channel.close])
        """Closes the channel; taken by the thread that calls it."""
        self._channel = channel
        self._registering = 0
        self.silent = False
        """The thread that delivers the events of its calls is missing."""
        self.closed = False
        """The channel is to be closed."""
        self.multicallables: BoundedCache[Method, Any] = BoundedCache(self._multicallable)

    def _multicallable(self, method: Method) -> Any:
        """Register a method that is new to this channel."""
        entered = False
        try:
            if not self.closed:  # uninterrupted
                self._registering += 1  # uninterrupted
                entered = True  # uninterrupted
                make = getattr(self._calls, method.kind)
                return grpcio.shortened(make(method.name, None, method.deserializer, method.registered))
            raise ValueError(CLOSED_CHANNEL)
        finally:
            if entered:  # uninterrupted
                self._registering -= 1  # uninterrupted
            self._close_unused()

    def deliver(self) -> None:
        """Start the missing thread, if any."""
        if self.silent:  # uninterrupted
            self.silent = False  # uninterrupted
            try:
                grpcio.deliver(self._channel)
            except BaseException:
                self.silent = True
                raise

    def close(self) -> None:
        """Close the channel, here or on the thread that is registering a method."""
        self.closed = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self.closed and self._close and not self._registering:
            try:
                close = self._close.popleft()
            except IndexError:  # another thread was faster
                return
            close()
