"""Cases: the shares of the hosts."""

import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future

from tests.e2e.envoy.bootstrap import Service
from tests.e2e.envoy.callers import Result
from tests.e2e.envoy.case import Case, Figures, between, codes, names
from tests.e2e.envoy.stage import World

from meshlib.balancing import LeastRequest


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

    The order of two hosts due at once, and the distance between their turns, depends on when they joined: at either end
    of the 60 that is one call, and the heaviest is sometimes twice in a row.
    """
    results = world.calls(60)
    off = max(abs(n - due) for n, due in zip(map(int, shares(results).split(", ")), (10, 20, 30), strict=True))
    longest = max(len(list(group)) for _, group in itertools.groupby(names(results)))
    return {
        "codes": codes(results),
        "calls": between(off, {"10, 20, 30": (0, 1)}),
        "most in a row": between(longest, {"1 or 2": (1, 2)}),
    }


def heavy_share(world: World) -> Figures:
    """Weights 1 and 3, by chance: 200 or 300 of 400 calls, with a deviation of 10 or 9; 250 is five deviations off."""
    results = world.calls(400)
    heavy = names(results).count("2")
    return {"codes": codes(results), "share of the heavier": between(heavy, {"1/2": (150, 250), "3/4": (251, 350)})}


def slow_host(world: World) -> Figures:
    """One of three servers no longer answers; 180 calls, each made when the last has ended or is held there.

    Round robin sends it 60. Least request over all hosts sends it one, and that only if it comes first. Two random
    choices take it only if both fall on it, so once in nine: 21 calls with a deviation of 4; the bound is four
    deviations away.
    """
    slow = world.servers[0]
    slow.fault(hang=True)
    futures: list[Future[Result]] = []

    def settled() -> bool:
        return futures[-1].done() or slow.in_flight == sum(not future.done() for future in futures)

    for _ in range(180):
        futures += world.start(1)
        world.until(settled, "it has ended or is held")
    held = slow.in_flight
    slow.heal()
    share = between(held, {"one at most": (0, 1), "less than 2/3 of its turn": (2, 39), "its turn": (59, 61)})
    return {"codes": codes([future.result() for future in futures]), "calls of the slow one": share}


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
        expect={"codes": "OK 60", "calls": "10, 20, 30", "most in a row": "1 or 2"},
    ),
    Case(
        name="least request, weights 1, 2, 3",
        run=weighted,
        servers=3,
        weights=(1, 2, 3),
        envoy=Service(lb_policy="least_request"),
        meshlib={"balancer": "least_request"},
        expect={"codes": "OK 60", "calls": "10, 20, 30", "most in a row": "1 or 2"},
    ),
    Case(
        name="least request of all, weights 1, 2, 3",
        run=weighted,
        servers=3,
        weights=(1, 2, 3),
        envoy=Service(lb_policy="least_request", lb_fields={"selection_method": "FULL_SCAN"}),
        meshlib={"balancer": LeastRequest(selection_method="full_scan")},
        expect={"codes": "OK 60", "calls": "10, 20, 30", "most in a row": "1 or 2"},
    ),
    Case(
        name="random, weights 1, 3",
        run=heavy_share,
        shells=("sync",),
        servers=2,
        weights=(1, 3),
        envoy=Service(lb_policy="random"),
        meshlib={"balancer": "random"},
        expect={"codes": "OK 400", "share of the heavier": "1/2"},
    ),
    Case(
        name="round robin, a slow host",
        run=slow_host,
        shells=("sync",),
        servers=3,
        meshlib={"balancer": "round_robin"},
        expect={"codes": "OK 180", "calls of the slow one": "its turn"},
    ),
    Case(
        name="least request, a slow host",
        run=slow_host,
        shells=("sync",),
        servers=3,
        envoy=Service(lb_policy="least_request"),
        meshlib={"balancer": "least_request"},
        expect={"codes": "OK 180", "calls of the slow one": "less than 2/3 of its turn"},
    ),
    Case(
        name="least request of all, a slow host",
        run=slow_host,
        shells=("sync",),
        servers=3,
        envoy=Service(lb_policy="least_request", lb_fields={"selection_method": "FULL_SCAN"}),
        meshlib={"balancer": LeastRequest(selection_method="full_scan")},
        expect={"codes": "OK 180", "calls of the slow one": "one at most"},
    ),
]
