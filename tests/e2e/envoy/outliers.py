"""Cases: outlier ejections, their number and duration."""

import itertools
import math
from typing import Any

import grpc
from tests.e2e.envoy.bootstrap import Json, Service
from tests.e2e.envoy.case import Case, Figures, between, codes
from tests.e2e.envoy.stage import World

from meshlib import OutlierDetection
from meshlib.testing import Server, echo

CALLS = 60
BASE = 0.6
"""Seconds of a first ejection, where it is measured."""
SWEEP = 0.5
"""Seconds. The ejection time of a host does not shrink if it fails five times sooner than that after its return."""

SHORT = {"max_ejection_percent": 50, "interval": 0.05, "base_ejection_time": 0.1, "max_ejection_time": 0.1}
"""For cases that count ejections and need a host back soon."""


def policies(*, panic: int = 50, balancer: object = "round_robin", **fields: Any) -> dict[str, Any]:
    """Both sides of one policy: its fields have the same names. ``panic`` is Envoy's, ``balancer`` meshlib's."""
    durations = ("interval", "base_ejection_time", "max_ejection_time")
    message: Json = {name: f"{value}s" if name in durations else value for name, value in fields.items()}
    # Without the window Envoy would act on the second of two ejections a second late.
    cluster = {"common_lb_config": {"update_merge_window": "0s", "healthy_panic_threshold": {"value": panic}}}
    return {
        "envoy": Service(outlier_detection=message, cluster=cluster),
        "meshlib": {"outlier_detection": OutlierDetection(**fields), "balancer": balancer},
    }


def failures(world: World) -> Figures:
    """Number of failed calls.

    Envoy's worker counts, its main thread ejects and notifies the worker: a few more calls may go to the host
    meanwhile.
    """
    failed = sum(result.code != "OK" for result in world.calls(CALLS))
    return {"failures": between(failed, {"none": (0, 0), "5 to 8": (5, 8)})}


def one_fails(world: World) -> Figures:
    """One of three answers every call with UNAVAILABLE."""
    world.servers[0].fault(code="UNAVAILABLE")
    return failures(world)


def one_fails_after_headers(world: World) -> Figures:
    """The same, with the status in trailers."""
    world.servers[0].fault(code="UNAVAILABLE", initial_metadata=True)
    return failures(world)


def four_in_a_row(world: World) -> Figures:
    """Four failures and a success, over and over: no failure is the fifth in a row."""
    for _ in range(CALLS // 15):
        world.servers[0].fault(code="UNAVAILABLE", times=4)
        world.servers[0].fault(times=1)
    return failures(world)


def one_is_stopped(world: World) -> Figures:
    """One of three refuses connections."""
    world.stop(world.servers[0])
    return failures(world)


def all_fail(world: World) -> Figures:
    """All answer UNAVAILABLE. The first to fail five times is chance; the number of ejections is not."""
    for server in world.servers:
        server.fault(code="UNAVAILABLE")
    world.calls(CALLS)
    world.until(lambda: 0 in world.arrivals(*world.calls(9)), "one is ejected")
    results = world.calls(CALLS)
    few = sum(n <= 8 for n in world.arrivals(*results))
    return {"codes": codes(results), "hosts ejected": str(few)}


def each_code(world: World) -> Figures:
    """Each code: one of two hosts ends five calls with it, and is ejected for that or not."""
    ejecting = []
    failing = world.servers[0]
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        ejections, calls = world.ejections, failing.calls.total()
        failing.fault(code=code)
        world.until(lambda end=calls + 5: bool(world.call()) and failing.calls.total() >= end, "five calls")  # type: ignore[misc]
        failing.heal()
        world.warm()  # until it is back, with a success
        if world.ejections > ejections:
            ejecting.append(code.name)
    return {"ejected for": ", ".join(sorted(ejecting))}


def longer_each_time(world: World) -> Figures:
    """A host that keeps failing is ejected for the base time, then for twice that, at the least."""
    failing = world.servers[0]
    failing.fault(code="UNAVAILABLE")
    world.until(lambda: bool(world.call()) and len(_absences(failing)) == 2, "it comes back for the second time")
    absences = enumerate(_absences(failing), start=1)
    return {f"ejection {n}": f"{math.floor(min(seconds / BASE, n))} x base or more" for n, seconds in absences}


def _absences(server: Server) -> list[float]:
    times = [received.at for received in server.received]
    return [after - before for before, after in itertools.pairwise(times) if after - before >= BASE / 2]


def half_of_it_fails(world: World) -> Figures:
    """One of three fails every other call: never two in a row, but half of all."""
    failing = world.servers[0]
    failing.fault(code="UNAVAILABLE", method=echo.SERVER_STREAM)

    def ejected() -> bool:
        # Two methods in turn over three hosts in turn: each host gets each method in turn.
        ten = [world.call(method=echo.SERVER_STREAM if n % 2 else echo.UNARY) for n in range(10)]
        return world.arrivals(*ten)[0] == 0

    world.until(ejected, "it is ejected")
    return {"ejected": "yes"}


CASES = [
    Case(
        name="outlier",
        run=one_fails,
        servers=3,
        **policies(max_ejection_percent=50),
        expect={"failures": "5 to 8"},
    ),
    Case(
        name="outlier, defaults",
        run=one_fails,
        servers=3,
        **policies(),
        expect={"failures": "20"},
    ),
    Case(
        name="outlier after headers",
        run=one_fails_after_headers,
        servers=3,
        **policies(max_ejection_percent=50),
        expect={"failures": "20"},
    ),
    Case(
        name="outlier, four in a row",
        run=four_in_a_row,
        servers=3,
        **policies(max_ejection_percent=50),
        expect={"failures": "16"},
    ),
    Case(
        name="outlier, one of three stopped",
        run=one_is_stopped,
        servers=3,
        **policies(max_ejection_percent=50),
        expect={"failures": "5 to 8"},
    ),
    Case(
        name="outlier, all fail",
        run=all_fail,
        servers=3,
        **policies(max_ejection_percent=50),
        expect={"codes": "UNAVAILABLE 60", "hosts ejected": "1"},
    ),
    Case(
        name="outlier, each code",
        run=each_code,
        shells=("sync",),
        servers=2,
        **policies(**SHORT),
        expect={"ejected for": "DATA_LOSS, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN"},
    ),
    Case(
        name="outlier, each code, 5xx",
        run=each_code,
        servers=2,
        shells=("sync",),
        **policies(enforcing_consecutive_5xx=100, enforcing_consecutive_gateway_failure=0, **SHORT),
        expect={"ejected for": "DATA_LOSS, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN"},
    ),
    Case(
        name="outlier, again",
        run=longer_each_time,
        servers=2,
        shells=("sync",),
        **policies(max_ejection_percent=50, interval=SWEEP, base_ejection_time=BASE),
        expect={"ejection 1": "1 x base or more", "ejection 2": "2 x base or more"},
    ),
    Case(
        name="outlier by failure percentage",
        run=half_of_it_fails,
        shells=("sync",),
        servers=3,
        **policies(
            max_ejection_percent=50,
            interval=1.0,  # each host needs its volume of calls in one, even on a slow machine
            failure_percentage_threshold=40,
            failure_percentage_minimum_hosts=3,
            failure_percentage_request_volume=10,
            enforcing_failure_percentage=100,
        ),
        expect={"ejected": "yes"},
    ),
    Case(
        name="outlier by success rate",
        run=half_of_it_fails,
        shells=("sync",),
        servers=3,
        **policies(
            max_ejection_percent=50,
            interval=1.0,  # each host needs its volume of calls in one, even on a slow machine
            success_rate_minimum_hosts=3,
            success_rate_request_volume=10,
            success_rate_stdev_factor=1000,
            enforcing_success_rate=100,
        ),
        expect={"ejected": "yes"},
    ),
]
