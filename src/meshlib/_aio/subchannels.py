"""The connection to one host: grpc.aio's own channel to one address, and its multicallables, made once per method."""

from collections.abc import Callable
from functools import partial
from typing import Any, final

import grpc
import grpc.aio

from meshlib._adapt import grpcio
from meshlib._adapt.interceptors import one_per_kind
from meshlib._adapt.reasons import PROBE, PROBE_SECONDS, reason
from meshlib._aio.connectivity import CLOSED_CHANNEL
from meshlib._aio.waiting import completed
from meshlib._control.channel_config import ClusterConfig
from meshlib._control.methods import Method
from meshlib._core.bounded_cache import BoundedCache
from meshlib._core.connectivity import SHUTDOWN
from meshlib._core.host import HostEntry
from meshlib._core.sharing import Sharing

__all__ = ["Factory", "Subchannel"]

Factory = Callable[
    [str, tuple[tuple[str, Any], ...], grpc.ChannelCredentials | None, grpc.Compression | None, tuple[Any, ...]], Any
]


@final
class Subchannel:
    """One grpc.aio channel to one address. Made on the loop it serves.

    Args:
        host: the host it connects to.
        cluster: the configuration of its cluster.
        interceptors: run for each attempt.
        sharing: of the process.
        factory: makes the grpc.aio channel.
    """

    __slots__ = ("_channel", "multicallables", "state", "target")

    def __init__(
        self,
        host: HostEntry,
        cluster: ClusterConfig,
        interceptors: tuple[Any, ...] = (),
        sharing: Sharing | None = None,
        factory: Factory = grpcio.aio_channel,
    ) -> None:
        self.target, options = cluster.subchannel(host, sharing)
        own = one_per_kind(interceptors)
        self._channel: Any = factory(self.target, options, cluster.credentials, cluster.compression, own)
        self.state: Callable[[bool], int] = grpcio.aio_state(self._channel)
        self.multicallables: BoundedCache[Method, Any] = BoundedCache(partial(_multicallable, self._channel, bool(own)))
        """grpc's multicallables by method, from bytes to messages."""

    def glance(self) -> int | None:
        """The current state. grpc.aio has no lock to wait for."""
        return self.state(True)

    def probe(self, told: Callable[[str], None]) -> Any:
        """Ask why the connection fails, and pass the reason to ``told``; empty: it does not fail. Returns the call, to
        be kept until then."""
        assert self._channel is not None, "never after its Close"
        call = self._channel.unary_unary(PROBE)(b"", timeout=PROBE_SECONDS)
        call.add_done_callback(lambda call: told(reason(completed(call.code()), completed(call.details()))))
        return call

    def close(self) -> None:
        """Close the connection and end every call on it. Without a grace period grpc.aio waits for nothing.

        It also releases grpc's channel: objects in a cycle with this one are freed later, and grpc.aio keeps every
        event loop while one channel lives.
        """
        if self._channel is not None:
            self.state = _shutdown
            self.multicallables = BoundedCache(_closed)
            completed(self._channel.close())
            self._channel = None  # last: after an exception it is closed again


def _shutdown(_: bool) -> int:
    """The state of a closed subchannel."""
    return SHUTDOWN


def _closed(_: Method) -> Any:
    """The multicallables of a closed subchannel.

    Raises:
        grpc.aio.UsageError: as on a closed grpc.aio channel.
    """
    raise grpc.aio.UsageError(CLOSED_CHANNEL)


def _multicallable(channel: Any, intercepted: bool, method: Method) -> Any:
    make = getattr(channel, method.kind)
    made = make(method.name, None, method.deserializer, method.registered)
    return grpcio.sending(made) if method.kind.startswith("stream") and not intercepted else made
