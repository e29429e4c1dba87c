"""Configuration of retries, hedging, the retry budget and retry throttling."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from meshlib._core.checks import StatusCode, duration, flag, number, status_codes, whole
from meshlib._core.errors import ConfigError

__all__ = ["HedgingPolicy", "ResetFormat", "RetryBudget", "RetryPolicy", "RetryThrottling", "checked_retry"]

ResetFormat = Literal["seconds", "unix_timestamp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Retry policy (gRFC A6, Envoy ``RetryPolicy``).

    The n-th retry waits U[0, min(initial_backoff * backoff_multiplier**(n-1), max_backoff)) seconds: Envoy's full
    jitter. A retry goes to another host if there is one. It is made only before any response has reached the
    application, within the deadline of the call and within the :class:`RetryBudget` of the channel.

    Args:
        max_attempts: attempts per call, the first included; 2 to 100.
        initial_backoff: upper bound of the first backoff, seconds.
        max_backoff: upper bound of every backoff, seconds.
        backoff_multiplier: growth of the bound from one retry to the next, at least 1.
        retryable_status_codes: ``grpc.StatusCode`` members or their names. CANCELLED means CANCELLED by a server, for
            example by a Python server that stops. A call cancelled by its caller is never retried.
        per_attempt_timeout: seconds after which an attempt without a response times out and is retried; for a stream,
            until its first message. None: only the deadline of the call.
        per_attempt_idle_timeout: seconds without a response after which an attempt times out (Envoy
            ``per_try_idle_timeout``). For a stream it also applies between messages; it then ends the call as
            DEADLINE_EXCEEDED, because delivered messages rule out a retry.
        unsent_only: retry only attempts of which no byte reached a server.
        buffer_size: bytes of requests buffered to retry a stream; beyond it the current attempt is final.
        retriable_headers: trailing metadata, as names or pairs of name and exact value, that make a failure retriable
            whatever its code (Envoy ``retriable_headers``).
        reset_headers: pairs of a name in trailing metadata and the format of its number, ``"seconds"`` or
            ``"unix_timestamp"``. The next retry waits until then, and up to half as long again (Envoy
            ``rate_limited_retry_back_off``). The first one present applies; ``grpc-retry-pushback-ms`` precedes all.
        max_reset_interval: seconds; a longer wait requested by a server is ignored.
        host_selection_retry_max_attempts: how often a pick is repeated if it is a host this call has tried; then that
            host is used (Envoy's field; 1 there). None: an untried host is always found.
        wait: a tenacity wait in place of the three backoff fields.
        stop: a tenacity stop in place of ``max_attempts``.
        when: a tenacity retry condition in place of ``retryable_status_codes``; called after failures only.
    """

    max_attempts: int = 3
    initial_backoff: float = 0.025
    max_backoff: float = 0.25
    backoff_multiplier: float = 2.0
    retryable_status_codes: frozenset[str] = frozenset({"CANCELLED", "UNAVAILABLE"})
    per_attempt_timeout: float | None = None
    per_attempt_idle_timeout: float | None = None
    unsent_only: bool = False
    buffer_size: int = 65536
    retriable_headers: tuple[str | tuple[str, str], ...] = ()
    reset_headers: tuple[tuple[str, ResetFormat], ...] = ()
    max_reset_interval: float = 300.0
    host_selection_retry_max_attempts: int | None = None
    wait: Callable[[Any], float] | None = None
    stop: Callable[[Any], bool] | None = None
    when: Callable[[Any], bool] | None = None

    if TYPE_CHECKING:  # it accepts more than the fields hold

        def __init__(
            self,
            *,
            max_attempts: int = ...,
            initial_backoff: float = ...,
            max_backoff: float = ...,
            backoff_multiplier: float = ...,
            retryable_status_codes: Iterable[StatusCode | str] = ...,
            per_attempt_timeout: float | None = ...,
            per_attempt_idle_timeout: float | None = ...,
            unsent_only: bool = ...,
            buffer_size: int = ...,
            retriable_headers: Iterable[str | tuple[str, str]] = ...,
            reset_headers: Iterable[tuple[str, ResetFormat]] = ...,
            max_reset_interval: float = ...,
            host_selection_retry_max_attempts: int | None = ...,
            wait: Callable[[Any], float] | None = ...,
            stop: Callable[[Any], bool] | None = ...,
            when: Callable[[Any], bool] | None = ...,
        ) -> None: ...

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
                "retryable_status_codes", set(), "must name at least one code; retry=None disables retries"
            )
        if self.per_attempt_timeout is not None:
            duration("per_attempt_timeout", self.per_attempt_timeout)
        if self.per_attempt_idle_timeout is not None:
            duration("per_attempt_idle_timeout", self.per_attempt_idle_timeout)
        flag("unsent_only", self.unsent_only)
        whole("buffer_size", self.buffer_size, 0, 2**31 - 1)
        object.__setattr__(self, "retriable_headers", _headers(self.retriable_headers))
        object.__setattr__(self, "reset_headers", _reset_headers(self.reset_headers))
        duration("max_reset_interval", self.max_reset_interval)
        if self.host_selection_retry_max_attempts is not None:
            whole("host_selection_retry_max_attempts", self.host_selection_retry_max_attempts, 0, 100)
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
                    raise ConfigError(other, getattr(self, other), f"is replaced by {name}=; set only one of them")

    @property
    def attempt_limit(self) -> float | None:
        """Seconds after which an attempt with one response times out; None: never."""
        limits = [limit for limit in (self.per_attempt_timeout, self.per_attempt_idle_timeout) if limit is not None]
        return min(limits, default=None)


def _headers(given: object) -> tuple[str | tuple[str, str], ...]:
    allowed = 'must be metadata names, or (name, value) pairs, such as ("x-retry", ("x-state", "draining"))'
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError("retriable_headers", given, allowed)
    made: list[str | tuple[str, str]] = []
    for item in given:
        if isinstance(item, str):
            made.append(_name("retriable_headers", item))
        elif isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], str):
            made.append((_name("retriable_headers", item[0]), item[1]))
        else:
            raise ConfigError("retriable_headers", item, allowed)
    return tuple(made)


def _reset_headers(given: object) -> tuple[tuple[str, ResetFormat], ...]:
    formats = get_args(ResetFormat)
    allowed = f'must be pairs such as ("retry-after", "seconds"); known formats: {", ".join(formats)}'
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError("reset_headers", given, allowed)
    made = []
    for item in given:
        if not isinstance(item, tuple | list) or len(item) != 2 or item[1] not in formats:
            raise ConfigError("reset_headers", item, allowed)
        made.append((_name("reset_headers", item[0]), item[1]))
    return tuple(made)


def _name(field: str, given: object) -> str:
    if not isinstance(given, str) or not re.fullmatch(r"[-_.0-9a-z]+", given):
        raise ConfigError(field, given, "a metadata name consists of lower-case letters, digits, '-', '_' and '.'")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgingPolicy:
    """Hedging policy: concurrent attempts, the first success wins (gRFC A6). Only for methods that may run twice.

    Args:
        max_attempts: attempts per call, the first included; 2 to 100.
        hedging_delay: seconds between one attempt and the next; 0 sends all at once.
        non_fatal_status_codes: a failure with one of these sends the next attempt at once; any other ends the call.
        buffer_size: bytes of requests buffered for further attempts of a stream.
    """

    max_attempts: int = 2
    hedging_delay: float = 0.05
    non_fatal_status_codes: frozenset[str] = frozenset({"UNAVAILABLE"})
    buffer_size: int = 65536

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            max_attempts: int = ...,
            hedging_delay: float = ...,
            non_fatal_status_codes: Iterable[StatusCode | str] = ...,
            buffer_size: int = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        whole("max_attempts", self.max_attempts, 2, 100)
        duration("hedging_delay", self.hedging_delay, zero=True)
        object.__setattr__(
            self, "non_fatal_status_codes", status_codes("non_fatal_status_codes", self.non_fatal_status_codes)
        )
        whole("buffer_size", self.buffer_size, 0, 2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """Limit of concurrent retries of a channel (Envoy ``RetryBudget``).

    The limit is max(budget_percent of the active calls, min_retry_concurrency). A retry counts from the decision to its
    end, including its backoff.

    Args:
        budget_percent: share of the active calls, 0 to 100.
        min_retry_concurrency: concurrent retries that are always allowed.
    """

    budget_percent: float = 20.0
    min_retry_concurrency: int = 3

    def __post_init__(self) -> None:
        number("budget_percent", self.budget_percent, 0, 100)
        whole("min_retry_concurrency", self.min_retry_concurrency, 0, 2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryThrottling:
    """Retry throttling: no retries or hedges while too many attempts fail (gRFC A6 ``retryThrottling``).

    A channel starts with ``max_tokens`` tokens. A retriable failure takes one, a success returns ``token_ratio``. While
    half of the tokens or fewer are left, nothing is retried or hedged, and a failed call fails at once. In the long run
    this allows ``token_ratio`` failures per success.

    Args:
        max_tokens: 1 to 1000.
        token_ratio: 0.001 to 1000; decimals beyond the third are ignored.
    """

    max_tokens: int
    token_ratio: float

    def __post_init__(self) -> None:
        whole("max_tokens", self.max_tokens, 1, 1000)
        # Less would count as nothing, and more than the maximum of tokens has no further effect.
        number("token_ratio", self.token_ratio, 0.001, 1000)


def checked_retry(value: object, *also: object) -> None:
    """Raise ConfigError unless ``value`` is a retry policy."""
    if value is not None and value not in also and not isinstance(value, RetryPolicy | HedgingPolicy):
        raise ConfigError("retry", value, "must be a RetryPolicy, a HedgingPolicy, or None for no retries")
