"""Policies of a channel and its methods: frozen values, validated at construction.

Field names are those of the gRPC service config in snake_case, or Envoy's where it has none. Durations are seconds. An
object turns a policy on, ``None`` turns it off. Each policy is defined next to the code that it configures
(``attempts/policy.py``, ``discovery/policy.py``); this module resolves them for one method.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import Enum
from typing import Final

from meshlib._core.attempts.policy import HedgingPolicy, RetryBudget, RetryPolicy, RetryThrottling, checked_retry
from meshlib._core.checks import duration
from meshlib._core.deadlines import LONGEST
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.errors import ConfigError
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.limits.policy import CircuitBreaker
from meshlib._core.observability import TelemetryPolicy

__all__ = [
    "UNSET",
    "CircuitBreaker",
    "DnsPolicy",
    "HedgingPolicy",
    "MethodPolicy",
    "MethodTable",
    "OutlierDetection",
    "Plan",
    "RetryBudget",
    "RetryPolicy",
    "RetryThrottling",
    "TelemetryPolicy",
    "Unset",
    "unmatched",
]


class Unset(Enum):
    """Marks an unset field of a :class:`MethodPolicy`: the channel's setting applies."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicy:
    """Policy of a method or a service; an unset field inherits the channel's.

    Args:
        retry: a :class:`RetryPolicy`, a :class:`HedgingPolicy`, or None for no retries.
        timeout: seconds, for calls that pass none; None: no limit.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Resolved policies of one method, used by every call of it.

    Args:
        timeout: seconds for calls that pass none and return one message.
        stream_timeout: the same for calls that return a stream.
    """

    retry: RetryPolicy | None = None
    hedging: HedgingPolicy | None = None
    timeout: float | None = None
    stream_timeout: float | None = None
    wait_for_ready: bool = False
    attempt_limit: float | None = field(init=False)
    """Seconds after which an attempt without a response times out."""
    idle: float | None = field(init=False)
    """Seconds after which an attempt without a message times out."""

    def __post_init__(self) -> None:
        limit = None if self.retry is None else self.retry.attempt_limit
        object.__setattr__(self, "attempt_limit", None if limit is None else min(limit, LONGEST))
        object.__setattr__(self, "idle", None if self.retry is None else self.retry.per_attempt_idle_timeout)

    @property
    def buffer_size(self) -> int:
        """Bytes of requests buffered for replay; without a policy, to replay attempts that reached no host."""
        return (self.retry or self.hedging or _NO_POLICY).buffer_size


_NO_POLICY: Final = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTable:
    """Policies of a channel by ``"/pkg.Svc/Method"``, ``"/pkg.Svc/*"`` or ``"*"``; the most specific wins."""

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
        # A copy: the application may change its own.
        object.__setattr__(self, "methods", dict(self.methods))

    def without_retries(self) -> "MethodTable":
        """Return a copy with neither retries nor hedges."""
        methods = {name: replace(policy, retry=None) for name, policy in self.methods.items()}
        return replace(self, retry=None, methods=methods)

    def plan(self, method: str) -> Plan:
        """Resolve the policies of one full method name."""
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


def unmatched(policies: Iterable[str], methods: Collection[str]) -> list[tuple[str, str]]:
    """Find keys of a table that match none of ``methods`` although their service is among them.

    Returns:
        Each with the most similar method, empty if none is close.
    """
    found = []
    for name in policies:
        service, _, method = name.rpartition("/")
        siblings = sorted(each for each in methods if each.rpartition("/")[0] == service)
        if siblings and method != "*" and name not in siblings:
            close = get_close_matches(name, siblings, n=1)
            found.append((name, close[0] if close else ""))
    return found
