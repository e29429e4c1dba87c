"""Outlier detection configuration."""

from dataclasses import dataclass

from meshlib._core.checks import duration, flag, number, whole
from meshlib._core.errors import ConfigError

__all__ = ["OutlierDetection"]

MOST = 2**32 - 1

_COUNTS = (
    "consecutive_5xx",
    "consecutive_gateway_failure",
    "consecutive_local_origin_failure",
    "success_rate_minimum_hosts",
    "success_rate_request_volume",
    "success_rate_stdev_factor",
    "failure_percentage_minimum_hosts",
    "failure_percentage_request_volume",
)
_PERCENTAGES = (
    "enforcing_consecutive_5xx",
    "enforcing_consecutive_gateway_failure",
    "enforcing_consecutive_local_origin_failure",
    "enforcing_success_rate",
    "enforcing_local_origin_success_rate",
    "enforcing_failure_percentage",
    "enforcing_failure_percentage_local_origin",
    "failure_percentage_threshold",
    "max_ejection_percent",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """Outlier detection configuration (Envoy ``OutlierDetection``; gRFC A50 is a subset).

    An ejected host keeps its connection and gets no new calls, except in panic mode
    (:class:`meshlib.balancing.Priorities`). It returns at the first sweep after its ejection time,
    ``min(base_ejection_time * n, max_ejection_time)`` for the n-th ejection. Every sweep without an ejection lowers n
    by one.

    An attempt is judged by its final status, in headers or trailers (Envoy: response headers only), as the HTTP status
    Envoy maps it to. UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS are 5xx; of these
    DEADLINE_EXCEEDED and UNAVAILABLE are gateway failures. Attempts that were cancelled, rejected locally or never sent
    are ignored. All calls lost with one broken connection are one failure.

    ``enforcing_...`` is the chance, in percent, that a detected outlier is ejected; at 0 it is only counted and logged
    at DEBUG. By default only five consecutive gateway failures eject, and, if split, five consecutive failures that no
    server answered.

    Args:
        consecutive_5xx: 5xx in a row.
        enforcing_consecutive_5xx: percent. (Envoy: 100. UNIMPLEMENTED and INTERNAL are as often the caller's fault.)
        consecutive_gateway_failure: gateway failures in a row.
        enforcing_consecutive_gateway_failure: percent. (Envoy: 0.)
        interval: seconds between two sweeps.
        base_ejection_time: seconds of the first ejection.
        max_ejection_time: seconds; None: the longer of 300 and ``base_ejection_time``.
        max_ejection_time_jitter: maximum random addition to each ejection, seconds.
        max_ejection_percent: maximum share of ejected hosts.
        always_eject_one_host: allow one ejection, whatever the percentage. (Envoy: False, so that of fewer than ten
            hosts its 10 percent eject none.)
        success_rate_minimum_hosts: minimum number of hosts with enough attempts to compare success rates.
        success_rate_request_volume: minimum attempts of a host in one interval.
        success_rate_stdev_factor: thousandths; a host is ejected if its success rate is more than this many standard
            deviations below the mean.
        enforcing_success_rate: percent. (Envoy: 100.)
        failure_percentage_threshold: percent of failures in one interval from which a host is ejected.
        failure_percentage_minimum_hosts: as for the success rate.
        failure_percentage_request_volume: as for the success rate.
        enforcing_failure_percentage: percent.
        split_external_local_origin_errors: judge failures that no server answered (broken connections, attempts that
            timed out) separately, by the ``local_origin`` fields. False: they count as UNAVAILABLE and
            DEADLINE_EXCEEDED.
        consecutive_local_origin_failure: in a row; only if split.
        enforcing_consecutive_local_origin_failure: percent; only if split.
        enforcing_local_origin_success_rate: percent; only if split. (Envoy: 100.)
        enforcing_failure_percentage_local_origin: percent; only if split.

    Raises:
        ConfigError: a field is out of its range.
    """

    consecutive_5xx: int = 5
    enforcing_consecutive_5xx: float = 0
    consecutive_gateway_failure: int = 5
    enforcing_consecutive_gateway_failure: float = 100
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_time: float | None = None
    max_ejection_time_jitter: float = 0.0
    max_ejection_percent: float = 10
    always_eject_one_host: bool = True
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: int = 1900
    enforcing_success_rate: float = 0
    failure_percentage_threshold: float = 85
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    enforcing_failure_percentage: float = 0
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failure: int = 5
    enforcing_consecutive_local_origin_failure: float = 100
    enforcing_local_origin_success_rate: float = 0
    enforcing_failure_percentage_local_origin: float = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            whole(name, getattr(self, name), 1, MOST)
        for name in _PERCENTAGES:
            number(name, getattr(self, name), 0, 100)
        duration("interval", self.interval)
        duration("base_ejection_time", self.base_ejection_time)
        duration("max_ejection_time_jitter", self.max_ejection_time_jitter, zero=True)
        if self.max_ejection_time is not None:
            duration("max_ejection_time", self.max_ejection_time)
            if self.max_ejection_time < self.base_ejection_time:
                raise ConfigError(
                    "max_ejection_time",
                    self.max_ejection_time,
                    f"must not be below base_ejection_time={self.base_ejection_time!r}",
                )
        flag("always_eject_one_host", self.always_eject_one_host)
        flag("split_external_local_origin_errors", self.split_external_local_origin_errors)

    @property
    def longest(self) -> float:
        """Seconds of the longest ejection, without jitter."""
        return max(300.0, self.base_ejection_time) if self.max_ejection_time is None else self.max_ejection_time
