"""The events of a world, fixed before it begins: hosts, names, servers, callers. A seed determines all of them.

Nothing here depends on the performer. A server's reply is a function of the call, of how many times it has been sent
and of the host, so machine, threads and asyncio meet the same servers.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Final

from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.endpoint import Endpoint
from meshlib._core.policy import (
    CircuitBreaker,
    HedgingPolicy,
    MethodPolicy,
    OutlierDetection,
    RetryBudget,
    RetryPolicy,
    RetryThrottling,
)

__all__ = ["EPOCH", "GRID", "KINDS", "Caller", "HostScript", "Reply", "Naming", "Script", "tick"]

KINDS: Final = ("blocking", "hedged", "future", "stream", "upload", "chat")
"""Kinds of calls in a world: blocking (awaited, in asyncio), the same with hedges, by a call object, for a stream of
responses, with a stream of requests, or with both.

One kind per world: the first waiter woken runs first, but a thread that waited is one turn later than a call object.
"""

EPOCH: Final = 1000.0
"""Start of virtual time: confusion with another clock, or with a duration, shows at once."""

GRID: Final = 2.0**-30
"""Seconds between two moments of virtual time. A power of two, so that sums and differences of moments are exact."""

CODES: Final = ("OK",) * 11 + ("UNAVAILABLE",) * 6 + ("INTERNAL", "RESOURCE_EXHAUSTED", "NOT_FOUND")
PUSHBACKS: Final = (None,) * 12 + ("0", "40", "-1", "soon")
METHOD: Final = "/world.Script/Call"


def tick(moment: float) -> float:
    """The first moment of virtual time that is not before ``moment``."""
    return math.ceil(moment / GRID) * GRID


@dataclass(frozen=True, slots=True, kw_only=True)
class HostScript:
    """A server and its connection.

    Args:
        address: of the server.
        connect: seconds to connect.
        retry: seconds between two attempts to connect.
        down: its outages, as pairs of moments.
        shows: seconds until the connection shows that its server is down.
        idles: a lost connection waits for a request, rather than reconnect by itself.
    """

    address: str
    connect: float
    retry: float
    down: tuple[tuple[float, float], ...]
    shows: float
    idles: bool

    def is_down(self, at: float) -> bool:
        return any(start <= at < end for start, end in self.down)

    def next_down(self, at: float) -> float:
        return min((start for start, _ in self.down if start > at), default=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A server's reply to one attempt.

    Args:
        delay: seconds until the status; infinite: it never arrives.
        code: of the status.
        pushback: the trailer.
        messages: of a stream, seconds until each.
        skew: seconds by which grpc is late to report an expired deadline or a lost connection.
        pace: of a stream of requests, seconds from a sent request until the next is taken.
    """

    delay: float
    code: str
    pushback: str | None
    messages: tuple[float, ...]
    skew: float
    pace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One call of the application.

    Args:
        n: its number, part of the method's name.
        at: start.
        timeout: seconds.
        wait_for_ready: as given.
        cancel_at: cancellation by the application.
        policy: of its method.
        requests: of a stream of them: seconds the application takes for each, and its size.
    """

    n: int
    at: float
    timeout: float | None
    wait_for_ready: bool | None
    cancel_at: float | None
    policy: MethodPolicy
    requests: tuple[tuple[float, int], ...] = ()

    @property
    def method(self) -> str:
        return f"{METHOD}{self.n}"

    @property
    def plain(self) -> bool:
        """Whether it calls the stub directly and blocks for the response."""
        return self.n % 2 == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The resolver's result from a moment on: endpoints, or an error."""

    at: float
    endpoints: tuple[Endpoint, ...]
    ttl: float | None
    failure: str


class Script:
    """All events, by kind and seed."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.seed = seed
        rng = Random(f"{kind}/{seed}")
        self.hosts = {host.address: host for host in (_host(rng, n) for n in range(rng.randint(1, 4)))}
        self.names = _names(rng, tuple(self.hosts))
        self.balancer: str | Balancer = rng.choice(
            ("round_robin", "round_robin", "random", "least_request", "pick_first", _priorities(rng))
        )
        self.budget: RetryBudget | RetryThrottling | None = rng.choice(
            (
                RetryBudget(),
                None,
                RetryBudget(budget_percent=0, min_retry_concurrency=1),
                RetryThrottling(max_tokens=rng.randint(1, 6), token_ratio=0.5),
            )
        )
        self.outlier_detection = rng.choice((OutlierDetection(), None, _outliers(rng), _outliers(rng)))
        self.circuit_breaker = _breaker(rng) if rng.random() < 0.2 else None
        self.callers = tuple(_caller(rng, n, kind) for n in range(rng.randint(1, 8)))
        self.looks = tuple(sorted(_moment(rng, 2.5) for _ in range(3)))
        """When the channel's snapshot is taken."""
        early = rng.random() < 0.2
        self.close_at = tick(EPOCH + (0.5 if early else 12.0) + 2 * rng.random())

    @property
    def streaming(self) -> bool:
        """The responses are streams."""
        return self.kind in ("stream", "chat")

    @property
    def uploading(self) -> bool:
        """The requests are streams."""
        return self.kind in ("upload", "chat")

    def reply(self, n: int, k: int, address: str) -> Reply:
        """The reply of the server at ``address`` to the ``k``-th attempt of call ``n``."""
        rng = Random(f"{self.kind}/{self.seed}/{n}/{k}/{address}")
        delay = rng.choice((0.03, 0.03, 0.3, 1.5)) * rng.random()
        messages: tuple[float, ...] = ()
        if self.streaming:
            messages = tuple(sorted(delay * rng.random() for _ in range(rng.choice((0, 0, 1, 3)))))
        return Reply(
            delay=math.inf if rng.random() < 0.06 else delay,
            code=rng.choice(CODES),
            pushback=rng.choice(PUSHBACKS),
            messages=messages,
            skew=rng.random() * 0.001,
            pace=rng.random() * rng.choice((0.001, 0.03)),
        )

    def naming(self, at: float) -> Naming:
        """The resolver's result for a query at ``at``."""
        return [answer for answer in self.names if answer.at <= at][-1]

    def lookup_seconds(self, question: int) -> float:
        """Seconds until the ``question``-th answer."""
        return 0.001 + Random(f"{self.seed}/{question}").random() * 0.05


def _moment(rng: Random, span: float) -> float:
    return tick(EPOCH + rng.random() * span)


def _host(rng: Random, n: int) -> HostScript:
    down = []
    at = 0.0
    if rng.random() < 0.15:
        down.append((0.0, _moment(rng, 1.0)))
        at = 1.0
    while rng.random() < 0.35:
        at += rng.random()
        end = math.inf if rng.random() < 0.2 else at + rng.choice((0.02, 1.0)) * rng.random()
        down.append((tick(EPOCH + at), tick(EPOCH + end) if end < math.inf else end))
        at = end
        if end == math.inf:
            break
    return HostScript(
        address=f"127.0.0.1:{5001 + n}",
        connect=rng.choice((0.002, 0.02, 0.4)) * (0.1 + rng.random()),
        retry=rng.choice((0.05, 0.5)) * (0.1 + rng.random()),
        down=tuple(down),
        shows=rng.random() * 0.004,
        idles=rng.random() < 0.3,
    )


def _priorities(rng: Random) -> Priorities:
    return Priorities(
        balancer=LeastRequest(),
        overprovisioning_factor=rng.choice((None, 1.0, 1.4)),
        healthy_panic_threshold=rng.choice((0, 50, 100)),
    )


def _outliers(rng: Random) -> OutlierDetection:
    """A configuration that has an effect in a world of a few calls."""
    return OutlierDetection(
        consecutive_gateway_failure=rng.randint(1, 3),
        consecutive_5xx=rng.randint(1, 3),
        enforcing_consecutive_5xx=rng.choice((0, 50, 100)),
        interval=rng.choice((0.05, 0.4)) * (1 + rng.random()),
        base_ejection_time=rng.choice((0.05, 0.5)) * (1 + rng.random()),
        max_ejection_time_jitter=rng.choice((0.0, 0.1)),
        max_ejection_percent=rng.choice((10, 50, 100)),
        split_external_local_origin_errors=rng.random() < 0.3,
        consecutive_local_origin_failure=rng.randint(1, 2),
        success_rate_minimum_hosts=1,
        success_rate_request_volume=1,
        failure_percentage_minimum_hosts=1,
        failure_percentage_request_volume=2,
        enforcing_failure_percentage=rng.choice((0, 100)),
    )


def _breaker(rng: Random) -> CircuitBreaker:
    return CircuitBreaker(
        max_requests=rng.randint(1, 4), max_pending_requests=rng.randint(0, 3), max_retries=rng.choice((None, 0, 1))
    )


def _names(rng: Random, addresses: tuple[str, ...]) -> tuple[Naming, ...]:
    weighted, tiered = rng.random() < 0.2, rng.random() < 0.2
    made = []
    at = 0.0
    for _ in range(1 + rng.choice((0, 0, 1, 3))):
        endpoints = tuple(
            Endpoint(
                address=address,
                weight=rng.randint(1, 3) if weighted else 1,
                priority=rng.randint(0, 1) if tiered else 0,
            )
            for address in rng.sample(addresses, rng.randint(1, len(addresses)))
        )
        failure = rng.choice(("", "", "", "", "", "the name server is away", "no such name"))
        made.append(
            Naming(
                at=EPOCH + at,
                endpoints=() if failure else endpoints,
                ttl=rng.choice((None, 0.0, 1.5, 5.0)),
                failure=failure,
            )
        )
        at += rng.random() * 1.5
    return tuple(made)


def _caller(rng: Random, n: int, kind: str) -> Caller:
    at = _moment(rng, 2.0)
    cancellable = kind not in ("blocking", "hedged") and rng.random() < 0.25
    return Caller(
        n=n,
        at=at,
        timeout=rng.choice((None, 0.05, 0.3, 1.0, 3.0)),
        wait_for_ready=rng.choice((None, None, False, True)),
        cancel_at=tick(at + rng.choice((0.01, 0.5)) * rng.random()) if cancellable else None,
        policy=MethodPolicy(retry=_retry(rng, kind), timeout=rng.choice((None, 2.0))),
        requests=tuple(
            (rng.choice((0.0001, 0.03)) * (0.1 + rng.random()), rng.choice((10, 30000)))
            for _ in range(rng.randint(0, 4) if kind in ("upload", "chat") else 0)
        ),
    )


def _retry(rng: Random, kind: str) -> RetryPolicy | HedgingPolicy | None:
    if rng.random() < 0.15 and kind != "hedged":
        return None
    if kind == "hedged" or (kind != "blocking" and rng.random() < 0.3):
        return HedgingPolicy(
            max_attempts=rng.randint(2, 4),
            hedging_delay=rng.choice((0.0001, 0.01, 0.1)) * (1 + rng.random()),
            non_fatal_status_codes=frozenset(rng.choice((("UNAVAILABLE",), ("UNAVAILABLE", "INTERNAL")))),
            buffer_size=rng.choice((65536, 65536, 100, 0)),
        )
    return RetryPolicy(
        max_attempts=rng.randint(2, 5),
        initial_backoff=rng.choice((0.005, 0.025, 0.2)),
        retryable_status_codes=frozenset(rng.choice((("UNAVAILABLE",), ("UNAVAILABLE", "INTERNAL")))),
        per_attempt_timeout=rng.choice((None, None, 0.02 + rng.random() / 50, 0.2 + rng.random() / 5)),
        per_attempt_idle_timeout=rng.choice((None, None, None, 0.03 + rng.random() / 50)),
        unsent_only=rng.random() < 0.1,
        host_selection_retry_max_attempts=rng.choice((None, None, 0, 1)),
        buffer_size=rng.choice((65536, 65536, 100, 0)),
    )
