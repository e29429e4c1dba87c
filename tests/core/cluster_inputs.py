"""Inputs of a service under random steps: policies, outcomes, endpoints, and balancers that misbehave."""

from random import Random
from typing import Any

from tests.core.scripted import CANCELLED, REFUSED, UNAVAILABLE

from meshlib._core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from meshlib._core.host import HostEntry
from meshlib._core.policy import (
    CircuitBreaker,
    HedgingPolicy,
    OutlierDetection,
    RetryPolicy,
    RetryThrottling,
)
from meshlib._core.status import OK, Outcome

ADDRESSES = ("a", "b", "c", "d")
STATES = (IDLE, CONNECTING, READY, TRANSIENT_FAILURE)


class Full:
    """A balancer whose picker takes a host with at most one call, and returns "wait" if there is none."""

    def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
        class Picker:
            def pick(self, call: object, *, now: float) -> Any:
                return next((host for host in hosts if not host.in_flight), None)

        return Picker()


class Broken:
    """A balancer whose picker raises every other time, and returns nonsense in between."""

    def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
        class Picker:
            turn = 0

            def pick(self, call: object, *, now: float) -> Any:
                self.turn += 1
                if self.turn % 2:
                    raise LookupError("no idea")
                return "nonsense"

            def done(self, host: HostEntry, report: object, *, now: float) -> None:
                raise LookupError("no idea")

        return Picker()


POLICY_LIST = [
    None,
    RetryPolicy(),
    RetryPolicy(per_attempt_timeout=0.5, max_attempts=5),
    RetryPolicy(per_attempt_idle_timeout=0.3, host_selection_retry_max_attempts=1),
    RetryPolicy(
        host_selection_retry_max_attempts=0, retriable_headers=("x-retry",), reset_headers=(("x-at", "seconds"),)
    ),
    HedgingPolicy(max_attempts=3, hedging_delay=0.5),
    HedgingPolicy(max_attempts=2, hedging_delay=0.0),
]
OUTCOME_LIST = [
    OK,
    OK,
    *[UNAVAILABLE] * 4,
    REFUSED,
    CANCELLED,
    Outcome("NOT_FOUND"),
    Outcome("INTERNAL", metadata=(("x-retry", ""), ("x-at", "2"))),
    Outcome("DEADLINE_EXCEEDED", answered=False),
]
OUTLIERS = [
    None,
    OutlierDetection(consecutive_gateway_failure=1, interval=0.5, base_ejection_time=1.0, max_ejection_percent=100),
    OutlierDetection(
        consecutive_5xx=2,
        enforcing_consecutive_5xx=50,
        interval=0.1,
        base_ejection_time=0.5,
        max_ejection_percent=50,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
    ),
]
BREAKERS = [None, None, CircuitBreaker(max_requests=4, max_pending_requests=2, max_retries=1)]
THROTTLING = [None, None, RetryThrottling(max_tokens=4, token_ratio=1)]
