"""What the core tells whoever listens: telemetry, logs and tests. Nothing is built when nobody does."""

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
    """Something that happened to one call.

    Args:
        at: when, monotonic seconds.
    """

    stage: ClassVar[str]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PickQueued(CallEvent):
    """No host can be chosen now; the call waits for a change."""

    stage: ClassVar[str] = "pick"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(CallEvent):
    """An attempt was given to a host.

    Args:
        n: its number, from 1.
        address: of the host.
        why: ``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"`` (the attempt before never left).
        panic: ejected hosts were used as well, because too few were left.
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
        seconds: how long it took.
    """

    stage: ClassVar[str] = "load"
    n: int
    address: str
    code: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(CallEvent):
    """Another attempt is to follow.

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
    """The circuit breaker refused an attempt; the call ends.

    Args:
        why: which limit, in words.
    """

    stage: ClassVar[str] = "breaker"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejected(CallEvent):
    """The end of an attempt had its host ejected.

    Args:
        n: its number.
        address: of the host.
        why: what the host did, in words.
    """

    stage: ClassVar[str] = "outlier"
    n: int
    address: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEvent:
    """Something that happened to a channel.

    Args:
        at: when, monotonic seconds.
    """

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsChanged(ChannelEvent):
    """The resolver named other endpoints than before.

    Args:
        added: addresses that are new.
        removed: addresses that are gone.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionFailed(ChannelEvent):
    """The resolver failed; the last good endpoints stay.

    Args:
        reason: what it said.
        kept: how many endpoints stay.
    """

    reason: str
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStateChanged(ChannelEvent):
    """A host's connection changed.

    Args:
        address: of the host.
        before: the state it had.
        after: the state it has.
    """

    address: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEjected(ChannelEvent):
    """Outlier detection leaves a host out for a while.

    Args:
        address: of the host.
        why: what it did, in words.
        seconds: until it may come back.
        alone: it is the only host, so it gets all calls all the same.
    """

    address: str
    why: str
    seconds: float
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUnreachable(ChannelEvent):
    """A host cannot be connected though others can; not every one is told.

    Args:
        address: of the host.
        reason: why, in C-core's words.
        ready: how many hosts are connected.
        hosts: how many there are.
    """

    address: str
    reason: str
    ready: int
    hosts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpared(ChannelEvent):
    """Outlier detection found a host to be an outlier, and it stays all the same.

    Args:
        address: of the host.
        why: what it did, in words.
        spared: why it stays, in words.
    """

    address: str
    why: str
    spared: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReturned(ChannelEvent):
    """A host is ejected no more.

    Args:
        address: of the host.
        alone: it is the only host.
    """

    address: str
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PanicChanged(ChannelEvent):
    """Too few hosts of some priorities are healthy, so that ejected ones are used as well; or that has ended.

    Args:
        priorities: those it is so for now; none: it has ended.
        alone: there is only one host.
    """

    priorities: tuple[int, ...]
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusing(ChannelEvent):
    """A limit of the channel refuses calls or retries. Told of a limit at most every ten seconds.

    Args:
        why: which, in words.
        refused: how many it has refused so far.
    """

    why: str
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFailed(ChannelEvent):
    """A balancer, or a strategy of a retry policy, raised, or returned what it must not; the channel went on without.

    Args:
        name: the class of the plug-in.
        doing: the method, or the field of the policy, that failed.
        error: what it raised, or a description of what it returned.
        instead: what happens in its place, in words.
    """

    name: str
    doing: str
    error: object
    instead: str


class ChannelObserver(Protocol):
    """Hears what happens to a channel; called outside its lock."""

    def on_channel_event(self, event: ChannelEvent) -> None:
        """One event."""
        ...
