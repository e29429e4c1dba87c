"""What ``channel.mesh`` offers: a look at the channel, and a way to have its name looked up now."""

from collections.abc import Callable
from typing import Protocol, final

from meshlib._adapt.grpcio import transport
from meshlib._control.cluster_driver import ClusterDriver
from meshlib._control.settings import Settings
from meshlib._core.cluster import ClusterMachine
from meshlib._core.connectivity import IDLE, NAMES, SHUTDOWN
from meshlib._core.snapshot import ChannelSnapshot

__all__ = ["Mesh"]


class Live(Protocol):
    """The runtime of a channel, of either shell."""

    cluster: ClusterMachine
    driver: ClusterDriver

    def now(self) -> float:
        """Its clock."""
        ...

    def resolve_now(self) -> None:
        """Has the name looked up."""
        ...


@final
class Mesh:
    """The mesh of one channel.

    Args:
        settings: what the channel is built from.
        live: its runtime, or None while it has not been used.
        closed: whether the channel is closed.
    """

    __slots__ = ("_closed", "_live", "_settings")

    def __init__(self, settings: Settings, live: Callable[[], Live | None], closed: Callable[[], bool]) -> None:
        self._settings = settings
        self._live = live
        self._closed = closed

    def resolve_now(self) -> None:
        """Asks the resolver at once, unless a question is under way. Does not wait for the answer; a channel that has
        not been used yet asks at its first call anyway."""
        live = self._live()
        if live is not None:
            live.resolve_now()

    def snapshot(self) -> ChannelSnapshot:
        """The channel as it is now: a frozen value; ``dataclasses.asdict`` makes it JSON."""
        target, resolver = self._settings.target.text, self._settings.source.name
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
        wire = transport(self._settings.credentials)
        return f"<mesh of {snapshot.target} {wire} {snapshot.state}: {ready} of {len(snapshot.hosts)} hosts ready>"
