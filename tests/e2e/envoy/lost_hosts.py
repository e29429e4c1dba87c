"""Cases: one of the hosts is gone, and discovery still lists it."""

from tests.e2e.envoy.bootstrap import PREVIOUS_HOSTS, Service
from tests.e2e.envoy.case import Case, Figures, between, codes
from tests.e2e.envoy.stage import World

from meshlib import RetryBudget, RetryPolicy

CALLS = 60


def stopped(world: World) -> Figures:
    """One of three has stopped; 60 calls, one after the other.

    In round robin it is a third of all picks. If each of those is retried it takes 90 picks for 60 calls, but for one
    that may be at either end.
    """
    world.stop(world.servers[0])
    results = world.calls(CALLS)
    retries = between(world.retries(*results), {"none": (0, 0), "one": (1, 1), "29 to 31": (29, 31)})
    return {"codes": codes(results), "retries": retries}


def lost(world: World) -> Figures:
    """Twenty calls are in flight on each of two servers when one is lost; the other takes every retry."""
    wire = world.wire
    assert wire is not None
    for server in world.servers:
        server.fault(hang=True)
    futures = world.start(40)
    world.until(lambda: all(server.in_flight == 20 for server in world.servers), "all calls are inside")
    world.servers[1].heal()
    wire.cut()
    return {"codes": codes([future.result() for future in futures])}


CASES = [
    Case(
        name="one of three stopped",
        run=stopped,
        servers=3,
        expect={"codes": "OK 40, UNAVAILABLE 20", "retries": "none"},
    ),
    Case(
        name="one of three stopped, unavailable",
        run=stopped,
        servers=3,
        envoy=Service(retry_policy={"retry_on": "unavailable", "num_retries": 2}),
        meshlib={"retry": RetryPolicy()},
        expect={"codes": "OK 40, UNAVAILABLE 20", "retries": "none"},
    ),
    Case(
        name="one of three stopped, connect-failure",
        run=stopped,
        servers=3,
        envoy=Service(retry_policy={"retry_on": "unavailable,connect-failure", "num_retries": 2}),
        meshlib={"retry": RetryPolicy()},
        expect={"codes": "OK 60", "retries": "29 to 31"},
    ),
    Case(
        name="lost with calls inside",
        run=lost,
        servers=2,
        wired=True,
        envoy=Service(
            retry_policy={"retry_on": "unavailable,connect-failure,reset", "num_retries": 2, **PREVIOUS_HOSTS},
            thresholds={"retry_budget": {"budget_percent": {"value": 0}, "min_retry_concurrency": 5}},
        ),
        meshlib={"retry": RetryPolicy(), "retry_budget": RetryBudget(budget_percent=0, min_retry_concurrency=5)},
        expect={"codes": "OK 25, UNAVAILABLE 15"},
    ),
]
