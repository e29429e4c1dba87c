"""Events of calls and channels, for telemetry, logs and tests. Not created without an observer."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

__all__ = [
    "AttemptEnded",
    "AttemptStarted",
    "Broken",
    "CallEvent",
    "ChannelEvent",
    "ChannelObserver",
    "Ejected",
    "EndpointsChanged",
    "HostEjected",
    "HostReturned",
    "HostSpared",
    "HostStateChanged",
    "HostUnreachable",
    "NotRetried",
    "PanicChanged",
    "PluginFailed",
    "Refusing",
    "ResolutionFailed",
    "Retrying",
    "PickQueued",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """Event of one call.

    Args:
        at: its time, monotonic seconds.
    """

    stage: ClassVar[str]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PickQueued(CallEvent):
    """No host can be picked now; the call waits."""

    stage: ClassVar[str] = "pick"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(CallEvent):
    """An attempt started.

    Args:
        n: its number, from 1.
        address: of the host.
        why: ``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"`` (the previous attempt was not sent).
        panic: ejected hosts were used too, because too few were healthy.
    """

    stage: ClassVar[str] = "in_flight"
    n: int
    address: str
    why: str
    panic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded(CallEvent):
    """An attempt ended.

    Args:
        n: its number.
        address: of the host.
        code: name of the status code.
        seconds: its duration.
    """

    stage: ClassVar[str] = "load"
    n: int
    address: str
    code: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(CallEvent):
    """A failed attempt is going to be retried.

    Args:
        n: the attempt that failed.
        delay: seconds until the next.
    """

    stage: ClassVar[str] = "retry"
    n: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRetried(CallEvent):
    """A failure was final.

    Args:
        n: the attempt that failed.
        why: the reason in words.
    """

    stage: ClassVar[str] = "retry"
    n: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(CallEvent):
    """The circuit breaker rejected an attempt; the call ends.

    Args:
        why: which limit, in words.
    """

    stage: ClassVar[str] = "breaker"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejected(CallEvent):
    """The end of an attempt ejected its host.

    Args:
        n: its number.
        address: of the host.
        why: the reason in words.
    """

    stage: ClassVar[str] = "outlier"
    n: int
    address: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEvent:
    """Event of a channel.

    Args:
        at: its time, monotonic seconds.
    """

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsChanged(ChannelEvent):
    """The endpoints changed.

    Args:
        added: new addresses.
        removed: removed addresses.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionFailed(ChannelEvent):
    """A resolution failed; the last good endpoints are kept.

    Args:
        reason: the resolver's error.
        kept: number of endpoints that stay.
    """

    reason: str
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStateChanged(ChannelEvent):
    """The connectivity state of a host changed.

    Args:
        address: of the host.
        before: the old state.
        after: the new state.
    """

    address: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEjected(ChannelEvent):
    """Outlier detection ejected a host.

    Args:
        address: of the host.
        why: the reason in words.
        seconds: length of the ejection.
        alone: it is the only host, so it still gets all calls.
    """

    address: str
    why: str
    seconds: float
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUnreachable(ChannelEvent):
    """A host cannot be connected although others can; rate-limited.

    Args:
        address: of the host.
        reason: C-core's error.
        ready: number of connected hosts.
        hosts: number of hosts.
    """

    address: str
    reason: str
    ready: int
    hosts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpared(ChannelEvent):
    """Outlier detection detected an outlier but did not eject it.

    Args:
        address: of the host.
        why: the reason of the detection, in words.
        spared: why it was not ejected, in words.
    """

    address: str
    why: str
    spared: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReturned(ChannelEvent):
    """A host returned from outlier ejection.

    Args:
        address: of the host.
        alone: it is the only host.
    """

    address: str
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PanicChanged(ChannelEvent):
    """Panic mode changed: ejected hosts are used too, because too few of a priority are healthy, or no longer.

    Args:
        priorities: those in panic now; none: panic has ended.
        alone: there is only one host.
    """

    priorities: tuple[int, ...]
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusing(ChannelEvent):
    """A limit of the channel rejects calls or retries. At most one event for each limit in ten seconds.

    Args:
        why: the limit, in words.
        refused: total it has rejected.
    """

    why: str
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFailed(ChannelEvent):
    """A balancer or a strategy of a retry policy raised or returned an invalid value; the channel used a fallback.

    Args:
        name: the class of the plug-in.
        doing: the method, or the field of the policy, that failed.
        error: the exception, or a description of the value.
        instead: the fallback, in words.
    """

    name: str
    doing: str
    error: object
    instead: str


class ChannelObserver(Protocol):
    """Observer of channel events; called outside the lock of the channel."""

    def on_channel_event(self, event: ChannelEvent) -> None:
        """Handle one event."""
        ...
