"""Outlier detection: which hosts are ejected, for how long, and when they return (Envoy ``outlier_detection_impl``).

Consecutive failures are judged as they happen; rates and returns at a sweep every ``interval``. The sweep follows Envoy
step by step, because its granularity affects the length of an ejection.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Final, final

from meshlib._core.health.policy import OutlierDetection
from meshlib._core.host import Ejection, HostEntry
from meshlib._core.status import Outcome

__all__ = ["GATEWAY", "SERVER_ERRORS", "Outlier", "Outliers"]

GATEWAY: Final = frozenset({"DEADLINE_EXCEEDED", "UNAVAILABLE"})
"""Status codes that Envoy maps to 502, 503 or 504."""
SERVER_ERRORS: Final = GATEWAY | {"UNKNOWN", "UNIMPLEMENTED", "INTERNAL", "DATA_LOSS"}
"""Status codes that it maps to any 5xx (Envoy ``source/common/grpc/status.cc``)."""


NOT_ENFORCED: Final = "detection only counts, enforcing=0 %"


@dataclass(frozen=True, slots=True)
class Outlier:
    """Detected outlier.

    Args:
        host: the host.
        kind: the detector, by Envoy's name.
        why: the reason in words.
        spared: why it is not ejected; empty: it is ejected now.
    """

    host: HostEntry
    kind: str
    why: str
    spared: str


@final
class Outliers:
    """Outlier detection of one channel. Every method is part of a serialized step of the channel.

    ``hosts`` is always all the hosts of the channel: ejected ones count against ``max_ejection_percent``.

    Args:
        policy: the configuration.
        rng: for enforcement and jitter.
    """

    __slots__ = ("_policy", "_rng", "detected", "enforced", "overflow", "sweep_at")

    def __init__(self, policy: OutlierDetection, rng: Random) -> None:
        self._policy = policy
        self._rng = rng
        self.sweep_at = math.inf
        """Monotonic second of the next sweep; infinite before :meth:`begin`."""
        self.detected = 0
        """Outliers detected so far, ejected or not."""
        self.enforced = 0
        """Ejections so far."""
        self.overflow = 0
        """Outliers not ejected so far, because the maximum was ejected already."""

    def begin(self, *, now: float, anew: bool = False) -> None:
        """Start the first interval, if it has not started.

        Args:
            now: monotonic second.
            anew: start the next interval without a sweep: there is nothing to judge.
        """
        if anew or self.sweep_at == math.inf:
            self.sweep_at = now + self._policy.interval

    # Consecutive failures.

    def answered(self, host: HostEntry) -> None:
        """Reset the consecutive failures of ``host``."""
        host.record.forgive()
        host.struck = False

    def failed(self, host: HostEntry, outcome: Outcome, hosts: Collection[HostEntry], *, now: float) -> list[Outlier]:
        """Count an attempt on ``host`` that did not end OK. Returns the outliers that this detects, mostly none."""
        policy, record = self._policy, host.record
        if policy.split_external_local_origin_errors and not outcome.answered:
            record.local_errors += 1
            host.struck = True
            record.consecutive_local_origin_failure += 1
            if record.consecutive_local_origin_failure < policy.consecutive_local_origin_failure:
                return []
            record.consecutive_local_origin_failure = 0
            why = f"{policy.consecutive_local_origin_failure} local-origin failures in a row, without a server's answer"
            enforcing = policy.enforcing_consecutive_local_origin_failure
            return self._found(host, "consecutive_local_origin_failure", why, enforcing, hosts, now)
        if outcome.code not in SERVER_ERRORS:
            record.others += 1
            self.answered(host)
            return []
        record.errors += 1
        host.struck = True
        record.consecutive_local_origin_failure = 0
        found: list[Outlier] = []
        if outcome.code in GATEWAY:
            record.consecutive_gateway_failure += 1
            if record.consecutive_gateway_failure >= policy.consecutive_gateway_failure:
                record.consecutive_gateway_failure = 0
                why = f"{policy.consecutive_gateway_failure} gateway failures in a row, last={outcome.code}"
                enforcing = policy.enforcing_consecutive_gateway_failure
                found += self._found(host, "consecutive_gateway_failure", why, enforcing, hosts, now)
        else:
            record.consecutive_gateway_failure = 0
        record.consecutive_5xx += 1
        if record.consecutive_5xx >= policy.consecutive_5xx:
            record.consecutive_5xx = 0
            why = f"{policy.consecutive_5xx} server errors in a row, last={outcome.code}"
            found += self._found(host, "consecutive_5xx", why, policy.enforcing_consecutive_5xx, hosts, now)
        return found

    # The sweep.

    def sweep(self, hosts: Collection[HostEntry], *, now: float) -> tuple[list[HostEntry], list[Outlier]]:
        """End the interval. Returns the hosts that return from ejection, and the outliers of the interval."""
        self.sweep_at = now + self._policy.interval
        returned = [host for host in hosts if self._returns(host, now)]
        found = self._judge_rates(hosts, now)
        for host in hosts:
            record = host.record
            if record.times and not host.ejected and now - record.returned_at >= self._policy.interval:
                record.times -= 1
        return returned, found

    def _returns(self, host: HostEntry, now: float) -> bool:
        if host.ejected_until(now=now) != 0.0:
            return False
        host.ejection = None
        host.record.returned_at = now
        self.answered(host)
        return True

    def _judge_rates(self, hosts: Collection[HostEntry], now: float) -> list[Outlier]:
        policy = self._policy
        if policy.failure_percentage_threshold > 0 and not any(host.record.failed_lately for host in hosts):
            # Without failures there is no outlier, and there may be thousands of hosts.
            for host in hosts:
                host.record.seen = host.totals
            return []
        every = {host: _Window(host) for host in hosts}
        windows = {host: window for host, window in every.items() if not host.ejected}
        split = policy.split_external_local_origin_errors
        rates = {host: (w.answers, w.errors) for host, w in windows.items()}
        found = self._judge(rates, "", policy.enforcing_success_rate, policy.enforcing_failure_percentage, hosts, now)
        if split:
            rates = {host: (w.answers + w.local_errors, w.local_errors) for host, w in windows.items()}
            found += self._judge(
                rates,
                "local_origin_",
                policy.enforcing_local_origin_success_rate,
                policy.enforcing_failure_percentage_local_origin,
                hosts,
                now,
            )
        return found

    def _judge(
        self,
        rates: dict[HostEntry, tuple[int, int]],
        origin: str,
        success_rate: float,
        failure_percentage: float,
        hosts: Collection[HostEntry],
        now: float,
    ) -> list[Outlier]:
        """Compare hosts by attempts and failures of the interval; ignores those without enough attempts."""
        policy = self._policy
        found: list[Outlier] = []
        enough = {h: 100.0 * (n - bad) / n for h, (n, bad) in rates.items() if n >= policy.success_rate_request_volume}
        if len(enough) >= policy.success_rate_minimum_hosts:
            # Relative to one of them, so that rounding makes no outlier among hosts with equal rates.
            first = next(iter(enough.values()))
            mean = first + sum(rate - first for rate in enough.values()) / len(enough)
            deviation = math.sqrt(sum((rate - mean) ** 2 for rate in enough.values()) / len(enough))
            threshold = mean - deviation * policy.success_rate_stdev_factor / 1000
            for host, rate in enough.items():
                if rate < threshold:
                    why = f"success rate {rate:.1f} % in {policy.interval:g} s, threshold={threshold:.1f} %"
                    found += self._found(host, f"{origin}success_rate", why, success_rate, hosts, now)
        enough = {h: 100.0 * bad / n for h, (n, bad) in rates.items() if n >= policy.failure_percentage_request_volume}
        if len(enough) >= policy.failure_percentage_minimum_hosts:
            for host, rate in enough.items():
                if rate >= policy.failure_percentage_threshold:
                    why = f"failure percentage {rate:.1f} % in {policy.interval:g} s"
                    found += self._found(host, f"{origin}failure_percentage", why, failure_percentage, hosts, now)
        return found

    # Ejection.

    def _found(
        self, host: HostEntry, kind: str, why: str, enforcing: float, hosts: Collection[HostEntry], now: float
    ) -> list[Outlier]:
        if host.ejected:
            return []
        self.detected += 1
        spared = self._spared(hosts, enforcing)
        if not spared:
            self._eject(host, why, now)
        return [Outlier(host, kind, why, spared)]

    def _spared(self, hosts: Collection[HostEntry], enforcing: float) -> str:
        """Why an outlier is not ejected; empty: it is."""
        policy = self._policy
        if enforcing == 0:
            return NOT_ENFORCED
        ejected = sum(host.ejected for host in hosts)
        if 100.0 * (ejected + 1) > policy.max_ejection_percent * len(hosts) and (
            ejected or not policy.always_eject_one_host
        ):
            self.overflow += 1
            limit = f"max_ejection_percent={policy.max_ejection_percent:g}"
            return f"{ejected} of {len(hosts)} hosts are ejected, {limit}"
        # No draw at 100 %: the same seed then gives the same picks with and without outlier detection.
        if enforcing < 100 and self._rng.random() * 100 >= enforcing:
            return f"detection enforces only some, enforcing={enforcing:g} %"
        return ""

    def _eject(self, host: HostEntry, why: str, now: float) -> None:
        policy, record = self._policy, host.record
        self.enforced += 1
        # Limited to what the longest ejection needs: else the count would take years to fall.
        if record.times * policy.base_ejection_time < policy.longest + policy.base_ejection_time:
            record.times += 1
        jitter = policy.max_ejection_time_jitter and self._rng.random() * policy.max_ejection_time_jitter
        seconds = min(policy.base_ejection_time * record.times, policy.longest) + jitter
        host.ejection = Ejection(why, now + seconds)
        record.forgive()
        host.struck = False


@final
class _Window:
    """Results of a host since the last sweep."""

    __slots__ = ("answers", "errors", "local_errors")

    def __init__(self, host: HostEntry) -> None:
        record, totals = host.record, host.totals
        successes, others, self.errors, self.local_errors = (
            total - seen for total, seen in zip(totals, record.seen, strict=True)
        )
        record.seen = totals
        self.answers = successes + others + self.errors
