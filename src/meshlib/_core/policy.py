"""Every knob, as frozen values that are checked where they are made.

Names of fields are those of the gRPC service config in snake_case where it has one, else Envoy's; durations are
seconds. An object is on, ``None`` is off.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.errors import ConfigError, unknown_name
from meshlib._core.status import CODES

__all__ = [
    "UNSET",
    "DnsPolicy",
    "HedgingPolicy",
    "MethodPolicy",
    "MethodTable",
    "Plan",
    "RetryBudget",
    "RetryPolicy",
    "Unset",
]


class Unset(Enum):
    """Marks a field of a :class:`MethodPolicy` that leaves the channel's setting as it is."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


def duration(name: str, value: object, *, zero: bool = False) -> None:
    """Refuses what is not a number of seconds."""
    allowed = f"must be a number of seconds, {'0 or more' if zero else 'more than 0'}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(name, value, allowed)
    if value < 0 or (value == 0 and not zero):
        raise ConfigError(name, value, allowed)


def whole(name: str, value: object, low: int, high: int) -> None:
    """Refuses what is not a whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(name, value, f"must be a whole number from {low} to {high}")


def number(name: str, value: object, low: float, high: float) -> None:
    """Refuses what is not a number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(name, value, f"must be a number from {low:g} to {high:g}")


def status_codes(name: str, value: object) -> frozenset[str]:
    """Names of status codes from names in any case or ``grpc.StatusCode`` members."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(name, value, 'must be a set of status codes such as {"UNAVAILABLE"}')
    codes = set()
    for item in value:
        code = item if isinstance(item, str) else getattr(item, "name", None)
        if not isinstance(code, str):
            raise ConfigError(name, item, "must be a grpc.StatusCode or its name")
        if code.upper() not in CODES:
            raise unknown_name(name, code, CODES)
        if code.upper() == "OK":
            raise ConfigError(name, item, "OK is no failure and cannot be retried")
        codes.add(code.upper())
    return frozenset(codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed attempt is tried again (gRFC A6, Envoy ``RetryPolicy``).

    The n-th retry waits U[0, min(initial_backoff * backoff_multiplier**(n-1), max_backoff)) seconds, Envoy's full
    jitter. A call is retried on another host where there is one, only while nothing has reached the application, only
    inside its deadline and inside the channel's :class:`RetryBudget`.

    Args:
        max_attempts: all attempts, the first included; 2 to 100.
        initial_backoff: bound of the first wait, seconds.
        max_backoff: bound of every wait, seconds.
        backoff_multiplier: growth of the bound from one retry to the next, at least 1.
        retryable_status_codes: ``grpc.StatusCode`` members or their names.
        per_attempt_timeout: seconds after which an attempt without an answer is given up and retried; for a stream,
            until its first message. None: only the deadline of the call ends it.
        unsent_only: retry only attempts of which no byte reached a server.
        buffer_size: bytes of requests kept for a retry of a stream; more than that and the attempt under way is final.
        wait: a tenacity wait instead of the three backoff fields.
        stop: a tenacity stop instead of ``max_attempts``.
        when: a tenacity retry condition instead of ``retryable_status_codes``; it is asked after failures only.
    """

    max_attempts: int = 3
    initial_backoff: float = 0.025
    max_backoff: float = 0.25
    backoff_multiplier: float = 2.0
    retryable_status_codes: frozenset[str] = frozenset({"UNAVAILABLE"})
    per_attempt_timeout: float | None = None
    unsent_only: bool = False
    buffer_size: int = 65536
    wait: Callable[[Any], float] | None = None
    stop: Callable[[Any], bool] | None = None
    when: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        whole("max_attempts", self.max_attempts, 2, 100)
        duration("initial_backoff", self.initial_backoff)
        duration("max_backoff", self.max_backoff)
        number("backoff_multiplier", self.backoff_multiplier, 1, 1000)
        object.__setattr__(
            self, "retryable_status_codes", status_codes("retryable_status_codes", self.retryable_status_codes)
        )
        if not self.retryable_status_codes and self.when is None:
            raise ConfigError(
                "retryable_status_codes", set(), "must name at least one code; retry=None turns retries off"
            )
        if self.per_attempt_timeout is not None:
            duration("per_attempt_timeout", self.per_attempt_timeout)
        if not isinstance(self.unsent_only, bool):
            raise ConfigError("unsent_only", self.unsent_only, "must be True or False")
        whole("buffer_size", self.buffer_size, 0, 2**31 - 1)
        for name, replaced in (
            ("wait", ("initial_backoff", "max_backoff", "backoff_multiplier")),
            ("stop", ("max_attempts",)),
            ("when", ("retryable_status_codes",)),
        ):
            given = getattr(self, name)
            if given is None:
                continue
            if not callable(given):
                raise ConfigError(name, given, f"must be a tenacity {name} object, or a function of its retry state")
            for other in replaced:
                if getattr(self, other) != type(self).__dataclass_fields__[other].default:
                    raise ConfigError(other, getattr(self, other), f"is what {name}= decides here; give one of the two")


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgingPolicy:
    """Several attempts at once, the first good answer wins (gRFC A6). Only for methods that may run more than once.

    Args:
        max_attempts: all attempts, the first included; 2 to 100.
        hedging_delay: seconds between one attempt and the next; 0 sends all at once.
        non_fatal_status_codes: a failure with one of these sends the next attempt at once; any other ends the call.
        buffer_size: bytes of requests kept for further attempts of a stream.
    """

    max_attempts: int = 2
    hedging_delay: float = 0.05
    non_fatal_status_codes: frozenset[str] = frozenset({"UNAVAILABLE"})
    buffer_size: int = 65536

    def __post_init__(self) -> None:
        whole("max_attempts", self.max_attempts, 2, 100)
        duration("hedging_delay", self.hedging_delay, zero=True)
        object.__setattr__(
            self, "non_fatal_status_codes", status_codes("non_fatal_status_codes", self.non_fatal_status_codes)
        )
        whole("buffer_size", self.buffer_size, 0, 2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How many retries a channel may have under way, whatever its calls would like (Envoy ``RetryBudget``).

    A retry holds its place from the decision to its end, the back-off included. The limit is
    max(budget_percent of the calls under way, min_retry_concurrency).

    Args:
        budget_percent: share of the calls under way, 0 to 100.
        min_retry_concurrency: retries that are always allowed at once.
    """

    budget_percent: float = 20.0
    min_retry_concurrency: int = 3

    def __post_init__(self) -> None:
        number("budget_percent", self.budget_percent, 0, 100)
        whole("min_retry_concurrency", self.min_retry_concurrency, 0, 2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicy:
    """What a method, or a service, does differently from its channel; an unset field is the channel's.

    Args:
        retry: a :class:`RetryPolicy`, a :class:`HedgingPolicy`, or None for no retries.
        timeout: seconds for calls that pass none; None for no limit.
        wait_for_ready: for calls that pass none.
    """

    retry: RetryPolicy | HedgingPolicy | None | Unset = UNSET
    timeout: float | None | Unset = UNSET
    wait_for_ready: bool | Unset = UNSET

    def __post_init__(self) -> None:
        checked_retry(self.retry, UNSET)
        if self.timeout is not None and self.timeout is not UNSET:
            duration("timeout", self.timeout)
        if self.wait_for_ready not in (True, False, UNSET):
            raise ConfigError("wait_for_ready", self.wait_for_ready, "must be True or False")


def checked_retry(value: object, *also: object) -> None:
    """Refuses what is no retry policy."""
    if value is not None and value not in also and not isinstance(value, RetryPolicy | HedgingPolicy):
        raise ConfigError("retry", value, "must be a RetryPolicy, a HedgingPolicy, or None for no retries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The policies of one method, settled once: what a call machine goes by.

    Args:
        timeout: seconds for calls that pass none and return one message.
        stream_timeout: the same for calls that return a stream.
    """

    retry: RetryPolicy | None = None
    hedging: HedgingPolicy | None = None
    timeout: float | None = None
    stream_timeout: float | None = None
    wait_for_ready: bool = False

    @property
    def buffer_size(self) -> int:
        """Bytes of requests kept for another attempt; without a policy, for one that the host did not get to see."""
        return (self.retry or self.hedging or _NO_POLICY).buffer_size


_NO_POLICY: Final = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTable:
    """The policies of a channel by ``"/pkg.Svc/Method"``, ``"/pkg.Svc/*"`` or ``"*"``; the most specific wins."""

    retry: RetryPolicy | HedgingPolicy | None = field(default_factory=RetryPolicy)
    timeout: float | None = None
    methods: Mapping[str, MethodPolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_retry(self.retry)
        if self.timeout is not None:
            duration("timeout", self.timeout)
        if not isinstance(self.methods, Mapping):
            raise ConfigError("methods", self.methods, "must map method names to MethodPolicy objects")
        for name, policy in self.methods.items():
            if name != "*" and (not isinstance(name, str) or name.count("/") != 2 or not name.startswith("/")):
                raise ConfigError("methods", name, 'must be "/package.Service/Method", "/package.Service/*" or "*"')
            if not isinstance(policy, MethodPolicy):
                raise ConfigError(f"methods[{name!r}]", policy, "must be a MethodPolicy")
        # A copy: the application may go on with its own.
        object.__setattr__(self, "methods", dict(self.methods))

    def plan(self, method: str) -> Plan:
        """The settled policies of one full method name."""
        service = method.rpartition("/")[0]
        layers = [policy for name in (method, f"{service}/*", "*") if (policy := self.methods.get(name)) is not None]
        retry = next((p.retry for p in layers if p.retry is not UNSET), self.retry)
        stream_timeout = next((p.timeout for p in layers if p.timeout is not UNSET), None)
        timeout = next((p.timeout for p in layers if p.timeout is not UNSET), self.timeout)
        wait_for_ready = next((p.wait_for_ready for p in layers if p.wait_for_ready is not UNSET), False)
        assert not isinstance(retry, Unset)
        assert not isinstance(timeout, Unset)
        assert not isinstance(stream_timeout, Unset)
        return Plan(
            retry=retry if isinstance(retry, RetryPolicy) else None,
            hedging=retry if isinstance(retry, HedgingPolicy) else None,
            timeout=timeout,
            stream_timeout=stream_timeout,
            wait_for_ready=wait_for_ready is True,
        )
