"""``channel.mesh``: snapshots of the channel, and immediate resolution of its name."""

from collections.abc import Callable
from typing import Protocol, final

from meshlib._adapt.grpcio import transport
from meshlib._control.channel_config import ChannelConfig
from meshlib._control.cluster_driver import ClusterDriver
from meshlib._core.cluster import ClusterMachine
from meshlib._core.connectivity import IDLE, NAMES, SHUTDOWN
from meshlib._core.snapshot import ChannelSnapshot

__all__ = ["Mesh"]


class LiveRuntime(Protocol):
    """Runtime of a channel, of either shell."""

    cluster: ClusterMachine
    driver: ClusterDriver

    def now(self) -> float:
        """Return the time of its clock."""
        ...

    def resolve_now(self) -> None:
        """Resolve the name now."""
        ...


@final
class Mesh:
    """Snapshots of one channel, and immediate resolution: ``channel.mesh``.

    Args:
        config: of the channel.
        live: its runtime, or None while it is unused.
        closed: whether the channel is closed.
    """

    __slots__ = ("_closed", "_config", "_live")

    def __init__(
        self, config: ChannelConfig, live: Callable[[], LiveRuntime | None], closed: Callable[[], bool]
    ) -> None:
        self._config = config
        self._live = live
        self._closed = closed

    def resolve_now(self) -> None:
        """Resolve the target now, unless a resolution is running. Does not wait for the answer.

        Does nothing before the first call, which resolves the target anyway.
        """
        live = self._live()
        if live is not None:
            live.resolve_now()

    def snapshot(self) -> ChannelSnapshot:
        """Return the current state of the channel: a frozen value; ``dataclasses.asdict`` prepares it for JSON."""
        target, resolver = self._config.listener.target.text, self._config.cluster.source.name
        live = self._live()
        if live is None or self._closed():
            state = NAMES[SHUTDOWN if self._closed() else IDLE]
            return ChannelSnapshot(target=target, resolver=resolver, state=state)
        cluster, now = live.cluster, live.now()
        shared = live.driver.resolution
        asked, due = (None, None) if shared is None else (shared.asked_at, shared.next_at)
        error = None if shared is None else shared.error
        outliers = cluster.outliers
        return ChannelSnapshot(
            target=target,
            resolver=resolver,
            state=NAMES[cluster.connectivity],
            hosts=cluster.snapshot(now=now),
            last_resolution=None if asked is None else now - asked,
            next_resolution=None if due is None else max(0.0, due - now),
            resolution_error=None if error is None else str(error),
            retries_held=cluster.budget.held,
            retries=cluster.budget.granted,
            retries_refused=cluster.retries.refused,
            requests_refused=cluster.breaker.refused,
            waiting=cluster.waiting,
            ejections=0 if outliers is None else outliers.enforced,
            ejections_spared=0 if outliers is None else outliers.overflow,
            panic=cluster.panic,
        )

    def __repr__(self) -> str:
        snapshot = self.snapshot()
        ready = sum(host.state == "READY" for host in snapshot.hosts)
        wire = transport(self._config.cluster.credentials)
        return f"<mesh of {snapshot.target} {wire} {snapshot.state}: {ready} of {len(snapshot.hosts)} hosts ready>"
