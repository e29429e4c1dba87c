"""The connection to one host: grpc's own channel to one address, and its multicallables, made once per method."""

from collections import deque
from collections.abc import Callable
from typing import Any, final

import grpc

from meshlib._adapt import grpcio
from meshlib._adapt.reasons import PROBE, PROBE_SECONDS, reason
from meshlib._control.methods import Method
from meshlib._control.settings import Settings
from meshlib._core.connectivity import TRANSIENT_FAILURE
from meshlib._core.host import Host
from meshlib._core.kept import Kept
from meshlib._core.sharing import Sharing

__all__ = ["CLOSED_CHANNEL", "Subchannel"]

CLOSED_CHANNEL = "Cannot invoke RPC on closed channel!"
"""What grpc raises as ``ValueError`` for a call on a closed channel, to the letter."""

Factory = Callable[[str, tuple[tuple[str, Any], ...], grpc.ChannelCredentials | None, grpc.Compression | None], Any]


@final
class Subchannel:
    """One grpc channel to one address.

    Args:
        host: whose connection it is.
        settings: the channel's.
        sharing: of the process.
        factory: makes the grpc channel.
    """

    __slots__ = ("_channel", "_registry", "glance", "multicallables", "state", "target")

    def __init__(
        self, host: Host, settings: Settings, sharing: Sharing | None = None, factory: Factory = grpcio.channel
    ) -> None:
        self.target, options = settings.subchannel(host, sharing)
        self._channel = factory(self.target, options, settings.credentials, settings.compression)
        self.state: Callable[[bool], int] = grpcio.sync_state(self._channel)
        self.glance: Callable[[], int | None] = grpcio.sync_glance(self._channel)
        interceptors = settings.attempt_interceptors
        calls: Any = grpcio.Compressing(self._channel)
        self._registry = _Registry(grpc.intercept_channel(calls, *interceptors) if interceptors else calls)
        self.multicallables: Kept[Method, Any] = Kept(self._registry.multicallable)
        """grpc's multicallables by method: they take bytes, and return messages. ``ValueError``: the channel is closed,
        in grpc's own words."""

    def reason(self) -> str:
        """Why the connection fails; empty: it does not, or the channel is closed."""
        try:
            if self.state(False) != TRANSIENT_FAILURE:
                return ""
            self._channel.unary_unary(PROBE)(b"", timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            return reason(error.code(), error.details())
        except ValueError:
            pass  # it was closed this moment
        return ""

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._registry.close(self._channel.close)


@final
class _Registry:
    """C-core registers a method with its channel, and crashes if that is being closed: never both at once. Nobody waits
    for that: whoever is last to register one closes the channel."""

    __slots__ = ("_calls", "_close", "_registering")

    def __init__(self, calls: Any) -> None:
        self._calls = calls
        self._close: deque[Callable[[], object]] | None = None
        """How to close the channel, once it is to be: taken by the one who does."""
        self._registering = 0

    def multicallable(self, method: Method) -> Any:
        """One that is new to this channel."""
        entered = False
        try:
            if self._close is None:  # uninterrupted
                self._registering += 1  # uninterrupted
                entered = True  # uninterrupted
                make = getattr(self._calls, method.kind)
                return grpcio.shortened(make(method.name, None, method.deserializer, method.registered))
            raise ValueError(CLOSED_CHANNEL)
        finally:
            if entered:  # uninterrupted
                self._registering -= 1  # uninterrupted
            self._close_unused()

    def close(self, close: Callable[[], object]) -> None:
        """None any more; ``close`` ends the channel, here or on the thread that is registering one."""
        pending = deque([close])
        if self._close is None:  # uninterrupted
            self._close = pending  # uninterrupted
        self._close_unused()

    def _close_unused(self) -> None:
        if self._close and not self._registering:
            try:
                close = self._close.popleft()
            except IndexError:  # another thread was quicker
                return
            close()
