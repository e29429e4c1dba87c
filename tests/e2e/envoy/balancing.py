"""Cases: who gets how many calls."""

import itertools
from collections import Counter
from collections.abc import Sequence

from tests.e2e.envoy.bootstrap import Service
from tests.e2e.envoy.callers import Result
from tests.e2e.envoy.case import Case, Figures, World, between, codes, names


def shares(results: Sequence[Result]) -> str:
    """Calls of each server, by its number."""
    return ", ".join(str(n) for _, n in sorted(Counter(names(results)).items()))


def equal(world: World) -> Figures:
    """One caller, three equal servers."""
    results = world.calls(30)
    order = names(results)
    return {"codes": codes(results), "calls": shares(results), "in turn": str(order == order[:3] * 10)}


def weighted(world: World) -> Figures:
    """One caller, weights 1, 2 and 3: a sixth of the calls each, smoothly, wherever in its schedule the first is.

    Who comes first of two that are due at once depends on when they joined; at either end of the 60 that is one call.
    """
    results = world.calls(60)
    slack = {"10, 20, 30": (0, 1)}
    off = max(abs(n - due) for n, due in zip(map(int, shares(results).split(", ")), (10, 20, 30), strict=True))
    row = max(len(list(group)) for _, group in itertools.groupby(names(results)))
    return {"codes": codes(results), "calls": between(off, slack), "most in a row": str(row)}


def heavy_share(world: World) -> Figures:
    """Weights 1 and 3, by chance: 200 or 300 of 400 calls, with a deviation of 10 or 9; 250 is five deviations off."""
    results = world.calls(400)
    heavy = names(results).count("2")
    return {"codes": codes(results), "share of the heavier": between(heavy, {"1/2": (150, 250), "3/4": (251, 350)})}


def slow_host(world: World) -> Figures:
    """Nine callers; one of three servers takes 80 ms for a call, the others 8. 240 calls in turn are 80 each.

    Whoever looks at the calls under way gives it no more of them than the others have. Two random choices came to 38
    calls of 240, with a deviation of 5; it is four of them to the 60 where "in turn" ends.
    """
    world.servers[0].fault(delay=0.08)
    for server in world.servers[1:]:
        server.fault(delay=0.008)
    results = world.loop(240, 9)
    share = between(names(results).count("1"), {"less than 3/4 of its turn": (0, 60), "its turn": (76, 84)})
    return {"codes": codes(results), "calls of the slow one": share}


CASES = [
    Case(
        name="round robin",
        run=equal,
        servers=3,
        meshlib={"balancer": "round_robin"},
        expect={"codes": "OK 30", "calls": "10, 10, 10", "in turn": "True"},
    ),
    Case(
        name="round robin, weights 1, 2, 3",
        run=weighted,
        servers=3,
        weights=(1, 2, 3),
        meshlib={"balancer": "round_robin"},
        expect={"codes": "OK 60", "calls": "10, 20, 30", "most in a row": "2"},
    ),
    Case(
        name="least request, weights 1, 2, 3",
        run=weighted,
        servers=3,
        weights=(1, 2, 3),
        envoy=Service(lb_policy="least_request"),
        meshlib={"balancer": "least_request"},
        expect={"codes": "OK 60", "calls": "10, 20, 30", "most in a row": "2"},
    ),
    Case(
        name="random, weights 1, 3",
        run=heavy_share,
        servers=2,
        weights=(1, 3),
        envoy=Service(lb_policy="random"),
        meshlib={"balancer": "random"},
        expect={"codes": "OK 400", "share of the heavier": "1/2"},
    ),
    Case(
        name="round robin, a slow host",
        run=slow_host,
        servers=3,
        shells=("sync",),
        meshlib={"balancer": "round_robin"},
        expect={"codes": "OK 240", "calls of the slow one": "its turn"},
    ),
    Case(
        name="least request, a slow host",
        run=slow_host,
        servers=3,
        shells=("sync",),
        envoy=Service(lb_policy="least_request"),
        meshlib={"balancer": "least_request"},
        expect={"codes": "OK 240", "calls of the slow one": "less than 3/4 of its turn"},
    ),
]
