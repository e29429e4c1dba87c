"""The instruments of a meter provider: recorded at the end of calls, or read at collection."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from meshlib._core.connectivity import NAMES, SHUTDOWN
from meshlib._core.version import VERSION
from meshlib.telemetry import _names as names

if TYPE_CHECKING:
    from meshlib._core.cluster import ClusterMachine

__all__ = ["Attributes", "Instruments", "ObservedRuntime", "Observed", "instruments", "peer"]

Attributes = dict[str, str | int]


class ObservedRuntime(Protocol):
    """The live part of a channel, as read by instruments."""

    @property
    def cluster(self) -> "ClusterMachine":
        """Its machine."""
        ...


class Observed(Protocol):
    """A channel as instruments keep it, weakly."""

    @property
    def present(self) -> ObservedRuntime | None:
        """Its live part in this process, if used there."""
        ...


Reader = Callable[["ClusterMachine", bool], Iterable[tuple[int, Attributes]]]
"""Reads a channel; if True, host by host, with addresses."""


@final
class Instruments:
    """The instruments of one meter provider, shared by all channels that use it.

    A call that succeeds at once is recorded in one histogram. The others are for retried calls, or optional. Everything
    else is integers that the channel counts anyway.

    Args:
        provider: None: the global one, set now or later.
    """

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = (provider or metrics.get_meter_provider()).get_meter(names.SCOPE, VERSION, names.SCHEMA)
        self._live = _live_global if provider is None else _live_of.setdefault(provider, weakref.WeakKeyDictionary())
        self.duration = meter.create_histogram(
            names.DURATION,
            unit="s",
            description="Duration of calls, all attempts included",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDS,
        )
        self.attempt_duration = meter.create_histogram(
            names.ATTEMPT_DURATION,
            unit="s",
            description="Duration of attempts; with `attempt_metrics`",
            explicit_bucket_boundaries_advisory=names.ATTEMPT_BOUNDS,
        )
        self.retries = meter.create_histogram(
            names.RETRIES,
            unit="{retry}",
            description="Retries of a call that was retried",
            explicit_bucket_boundaries_advisory=names.RETRIES_BOUNDS,
        )
        self.transparent_retries = meter.create_histogram(
            names.TRANSPARENT_RETRIES,
            unit="{transparent_retry}",
            description="Transparent retries of a call: attempts refused before they were sent",
            explicit_bucket_boundaries_advisory=names.TRANSPARENT_RETRIES_BOUNDS,
        )
        self.hedges = meter.create_histogram(
            names.HEDGES,
            unit="{hedge}",
            description="Hedges of a call that was hedged",
            explicit_bucket_boundaries_advisory=names.RETRIES_BOUNDS,
        )
        self.retry_delay = meter.create_histogram(
            names.RETRY_DELAY,
            unit="s",
            description="Time without an attempt in flight, of a call that was retried",
            explicit_bucket_boundaries_advisory=names.ATTEMPT_BOUNDS,
        )
        for create, read, name, unit, description in (
            (meter.create_observable_counter, _connected, names.CONNECTED, "{attempt}", "Connections established"),
            (
                meter.create_observable_counter,
                _not_connected,
                names.NOT_CONNECTED,
                "{attempt}",
                "Connection attempts that failed",
            ),
            (
                meter.create_observable_counter,
                _disconnected,
                names.DISCONNECTED,
                "{disconnection}",
                "Connections lost",
            ),
            (
                meter.create_observable_up_down_counter,
                _connections,
                names.CONNECTIONS,
                "{connection}",
                "Open connections",
            ),
            (
                meter.create_observable_up_down_counter,
                _hosts,
                names.HOSTS,
                "{host}",
                "Hosts of the channel by connectivity",
            ),
            (meter.create_observable_up_down_counter, _in_flight, names.IN_FLIGHT, "{attempt}", "Attempts under way"),
            (
                meter.create_observable_counter,
                _refusals,
                names.RETRY_REFUSALS,
                "{retry}",
                "Retries rejected by the retry budget, the throttling or the circuit breaker",
            ),
            (
                meter.create_observable_up_down_counter,
                _budget,
                names.BUDGET,
                "{retry}",
                "Retries that the retry budget allows now; absent without a budget",
            ),
            (
                meter.create_observable_counter,
                _broken,
                names.BREAKER_REFUSALS,
                "{call}",
                "Calls and attempts rejected by the circuit breaker",
            ),
            (
                meter.create_observable_up_down_counter,
                _ejected,
                names.EJECTED,
                "{host}",
                "Hosts ejected by outlier detection",
            ),
            (
                meter.create_observable_counter,
                _ejections,
                names.EJECTIONS,
                "{ejection}",
                "Ejections by outlier detection",
            ),
            (
                meter.create_observable_counter,
                _resolutions,
                names.RESOLUTIONS,
                "{resolution}",
                "Answers and failures of the resolver",
            ),
        ):
            create(name, [self._reader(read, name)], unit=unit, description=description)

    def watch(self, channel: Observed, server: Attributes, target: str, *, hosts: bool) -> None:
        """Read ``channel`` from now on; ``hosts``: with the addresses of its hosts."""
        self._live[channel] = _About(server, {names.GRPC_TARGET: target}, hosts)

    def _reader(self, read: Reader, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        by_grpc = name.startswith("grpc.")

        def observe(_: CallbackOptions) -> Sequence[Observation]:
            return [
                Observation(value, {**(about.target if by_grpc else about.server), **attributes})
                for channel, about in _copy(self._live)
                if (live := channel.present) is not None
                for value, attributes in read(live.cluster, about.hosts)
            ]

        return observe


class _About(NamedTuple):
    """The attributes of all values read from a channel."""

    server: Attributes
    target: Attributes
    hosts: bool


def peer(address: str) -> Attributes:
    """Return the attributes of an address."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        return {names.PEER_ADDRESS: host.strip("[]"), names.PEER_PORT: int(port)}
    return {names.PEER_ADDRESS: address.removeprefix("unix:")} if address.startswith("unix:") else {}


Channels = weakref.WeakKeyDictionary[Observed, _About]

# No lock: a provider is the application's code, and a channel may be made in a signal handler or a finalizer. If two
# threads make instruments of one provider at once, OpenTelemetry keeps the first; both read the same channels.
_live_global: Final[Channels] = weakref.WeakKeyDictionary()
_live_of: Final[weakref.WeakKeyDictionary[MeterProvider, Channels]] = weakref.WeakKeyDictionary()
_made: Final[list[Instruments]] = []
_made_of: Final[weakref.WeakKeyDictionary[MeterProvider, Instruments]] = weakref.WeakKeyDictionary()


def instruments(provider: MeterProvider | None) -> Instruments:
    """Return those of a provider, made once: a second instrument of the same name is an error."""
    if provider is None:
        if not _made:
            _made.append(Instruments(None))
        return _made[0]
    known = _made_of.get(provider)
    return _made_of.setdefault(provider, Instruments(provider)) if known is None else known


def _copy(live: Channels) -> tuple[tuple[Observed, _About], ...]:
    while True:
        try:
            return tuple(live.items())
        except RuntimeError:  # another thread has made a channel
            continue


def _connected(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(cluster.hosts.connected, {})]


def _not_connected(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(cluster.hosts.not_connected, {})]


def _disconnected(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(cluster.hosts.disconnected, {})]


def _connections(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(cluster.hosts.connections, {})]


def _hosts(cluster: "ClusterMachine", each: bool) -> Iterable[tuple[int, Attributes]]:
    if each:
        return [(1, {names.HOST_STATE: NAMES[host.state], **peer(host.endpoint.address)}) for host in cluster.hosts]
    counts = dict.fromkeys(NAMES[:SHUTDOWN], 0)
    for host in cluster.hosts:
        counts[NAMES[host.state]] += 1
    return [(count, {names.HOST_STATE: state}) for state, count in counts.items()]


def _in_flight(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(cluster.in_flight, {})]


def _refusals(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(cluster.retries.refused, {})]


def _budget(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    remaining = cluster.retries.remaining
    return [] if remaining is None else [(remaining, {})]


def _broken(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(cluster.breaker.refused, {})]


def _ejected(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(sum(host.ejected for host in cluster.hosts), {})]


def _ejections(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(0 if cluster.outliers is None else cluster.outliers.enforced, {})]


def _resolutions(cluster: "ClusterMachine", _: bool) -> Iterable[tuple[int, Attributes]]:
    return [(count, {names.OUTCOME: outcome}) for outcome, count in cluster.resolutions.items()]
