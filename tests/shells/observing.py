"""Shared parts of the worlds: the settings of their channel, its names, the error of an attempt, a snapshot."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import grpc
from tests.shells.network import Flight, Network
from tests.shells.trace import Trace, Tracers

from meshlib._adapt.outcomes import PUSHBACK_KEY
from meshlib._control.arguments import ChannelArguments
from meshlib._control.settings import Settings, settle
from meshlib._core.cluster import ClusterMachine
from meshlib._core.connectivity import NAMES
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Resolution
from meshlib._core.snapshot import ChannelSnapshot
from meshlib.testing import flush_logs

__all__ = ["Failed", "errorless", "look", "seen", "settings", "trailing"]


@final
class Names:
    """The resolver of a world; it waits on the loop of the control plane."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def resolve(self, previous: Resolution | None) -> Resolution:
        network = self._network
        network.questions += 1
        answer = network.script.naming(network.now())
        await asyncio.sleep(network.script.lookup_seconds(network.questions))
        if answer.failure:
            raise ResolveError(answer.failure)
        return Resolution(endpoints=answer.endpoints, ttl=answer.ttl)


def settings(network: Network) -> Settings:
    """The settings of a world's channel."""
    script = network.script
    return settle(
        ChannelArguments(
            "world:///script",
            resolver=Names(network),
            balancer=script.balancer,
            retry_budget=script.budget,
            outlier_detection=script.outlier_detection,
            circuit_breaker=script.circuit_breaker,
            methods={caller.method: caller.policy for caller in script.callers},
            tracer_provider=Tracers(network.trace),
        )
    )


def trailing(flight: Flight) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of an attempt."""
    return () if flight.pushback is None else ((PUSHBACK_KEY, flight.pushback),)


@final
class Failed(grpc.RpcError):
    """The error of a failed attempt."""

    mesh: Any = None

    def __init__(self, flight: Flight) -> None:
        super().__init__(flight.details)
        self._flight = flight

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self._flight.code]

    def details(self) -> str:
        return self._flight.details

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return trailing(self._flight)

    def debug_error_string(self) -> str:
        return ""


def look(
    trace: Trace, cluster: ClusterMachine | None, asked_at: float | None, error: ResolveError | None, *, now: float
) -> None:
    """Record the channel's state from the machines."""
    if cluster is None:
        trace.add(-1, "look", ())
        return
    budget, outliers = cluster.budget, cluster.outliers
    told = None if error is None else str(error)
    counts = (
        budget.held,
        cluster.retries.refused,
        cluster.breaker.refused,
        cluster.waiting,
        0 if outliers is None else outliers.enforced,
        cluster.panic,
    )
    trace.add(-1, "look", cluster.snapshot(now=now), cluster.connectivity, asked_at, told, *counts)


def seen(trace: Trace, snapshot: ChannelSnapshot, now: float) -> None:
    """Record the channel's state from ``channel.mesh``."""
    state = NAMES.index(snapshot.state)
    if not snapshot.hosts and snapshot.last_resolution is None and snapshot.state == "IDLE":
        trace.add(-1, "look", ())
        return
    asked = None if snapshot.last_resolution is None else now - snapshot.last_resolution
    trace.add(
        -1,
        "look",
        snapshot.hosts,
        state,
        asked,
        snapshot.resolution_error,
        snapshot.retries_held,
        snapshot.retries_refused,
        snapshot.requests_refused,
        snapshot.waiting,
        snapshot.ejections,
        snapshot.panic,
    )


@contextmanager
def errorless() -> Iterator[None]:
    """Fail on errors logged by a shell, and skip formatting the rest."""
    errors = []

    def heard(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            errors.append(f"{record.getMessage()} {record.exc_info or ''}")
        return False

    loggers = [logging.getLogger(name) for name in ("meshlib", "asyncio")]
    for logger in loggers:
        logger.addFilter(heard)
    try:
        yield
    finally:
        flush_logs()
        for logger in loggers:
            logger.removeFilter(heard)
    assert not errors, f"logged as errors: {errors}"
