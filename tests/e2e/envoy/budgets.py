"""Cases: the number of concurrent retries."""

from tests.e2e.envoy.bootstrap import Service
from tests.e2e.envoy.case import Case, Figures, codes
from tests.e2e.envoy.gate import FAIL, Gate
from tests.e2e.envoy.stage import World

from meshlib import RetryBudget, RetryPolicy
from meshlib.testing import echo

GATE = Gate()


def retries_at_once(world: World, n: int) -> Figures:
    """``n`` calls in flight fail. Each would get one retry, and none of those ends before all are decided."""
    GATE.reset()
    futures = world.start(n, method=FAIL)
    world.until(lambda: GATE.arrived == n, "all are under way")
    GATE.release(n)
    world.until(lambda: GATE.arrived - n + sum(f.done() for f in futures) == n, "all have ended or are retried")
    retries = GATE.arrived - n
    GATE.release()
    return {"codes": codes([future.result() for future in futures]), "retries": str(retries)}


def budget(world: World) -> Figures:
    """20 % of the rest of twenty calls is less than the minimum from the first to the last."""
    return retries_at_once(world, 20)


def budget_by_load(world: World) -> Figures:
    """Eight calls fail while forty continue: 10 % of the calls then in flight is 4, however many of the 8 are
    left."""
    server = world.servers[0]
    server.fault(hang=True, method=echo.UNARY)
    held = world.start(40)
    world.until(lambda: server.in_flight == len(held), "all are held")
    figures = retries_at_once(world, 8)
    server.heal()
    assert codes([future.result() for future in held]) == "OK 40"
    return figures


CASES = [
    Case(
        name="retry budget, minimum",
        run=budget,
        add=GATE.add_to_server,
        envoy=Service(
            retry_policy={"retry_on": "unavailable", "num_retries": 1},
            thresholds={"retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 5}},
        ),
        meshlib={"retry": RetryPolicy(max_attempts=2), "retry_budget": RetryBudget(min_retry_concurrency=5)},
        expect={"codes": "UNAVAILABLE 20", "retries": "5"},
    ),
    Case(
        name="retry budget, share",
        run=budget_by_load,
        add=GATE.add_to_server,
        envoy=Service(
            retry_policy={"retry_on": "unavailable", "num_retries": 1},
            thresholds={"retry_budget": {"budget_percent": {"value": 10}, "min_retry_concurrency": 1}},
        ),
        meshlib={
            "retry": RetryPolicy(max_attempts=2),
            "retry_budget": RetryBudget(budget_percent=10, min_retry_concurrency=1),
        },
        expect={"codes": "UNAVAILABLE 8", "retries": "4"},
    ),
]
