"""Cases: the hosts that get the calls when few hosts of a tier are left."""

from tests.e2e.envoy.case import Case, Figures, between
from tests.e2e.envoy.outliers import CALLS, all_fail, policies
from tests.e2e.envoy.stage import World

from meshlib.balancing import Priorities


def most_fail(world: World) -> Figures:
    """Two of three answer UNAVAILABLE and are ejected after five calls each. Then none fails, or two of three in panic;
    another thread has to notice that."""
    for server in world.servers[:2]:
        server.fault(code="UNAVAILABLE")
    world.calls(30)
    world.until(lambda: sum(world.arrivals(*world.calls(3))[:2]) == 2, "there is panic")
    failed = sum(result.code != "OK" for result in world.calls(CALLS))
    return {"failures": between(failed, {"none": (0, 0), "two of three": (CALLS / 2, CALLS * 2 / 3 + 2)})}


def a_tier_is_halved(world: World) -> Figures:
    """One of two hosts of the first tier is ejected, and the second tier exists.

    140 % of one half is 70 %: of 300 calls 90 go to the second tier, with a deviation of 8; the bounds are at four.
    """
    world.servers[0].fault(code="UNAVAILABLE")
    world.until(lambda: world.arrivals(*world.calls(10))[0] == 0, "it is ejected")
    spilt = sum(world.arrivals(*world.calls(300))[2:])
    return {"calls of the second tier": between(spilt, {"none": (0, 0), "30 %": (58, 122)})}


CASES = [
    Case(
        name="panic",
        run=most_fail,
        servers=3,
        **policies(max_ejection_percent=100),
        expect={"failures": "two of three"},
    ),
    Case(
        name="panic, off",
        run=all_fail,
        servers=2,
        **policies(balancer=Priorities(healthy_panic_threshold=0), panic=0, max_ejection_percent=100),
        expect={"codes": "UNAVAILABLE 60", "hosts ejected": "2"},
    ),
    Case(
        name="priorities",
        run=a_tier_is_halved,
        servers=4,
        priorities=(0, 0, 1, 1),
        **policies(max_ejection_percent=50),
        expect={"calls of the second tier": "30 %"},
    ),
    Case(
        name="priorities, Priorities()",
        run=a_tier_is_halved,
        shells=("sync",),
        servers=4,
        priorities=(0, 0, 1, 1),
        **policies(balancer=Priorities(), max_ejection_percent=50),
        expect={"calls of the second tier": "30 %"},
    ),
]
