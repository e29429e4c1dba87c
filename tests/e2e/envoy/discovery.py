"""Cases: the effect of an answer without endpoints. Discovery is the same code in both shells."""

from tests.e2e.envoy.case import Case, Figures
from tests.e2e.envoy.stage import World


def heard(world: World) -> None:
    """Wait until the name server's current answer has reached the channel: a query after it, and the next."""

    def asked() -> int:
        return sum(query.name == world.domain and query.type == "A" for query in world.dns.queries)

    before = asked()
    world.until(lambda: asked() >= before + 2, "the name is asked for again")


def no_instances(world: World) -> Figures:
    """The name has no records any more, and the server is still there."""
    world.dns.fault(world.domain, empty=True)
    heard(world)
    return {"code": world.call().code}


def no_answer(world: World) -> Figures:
    """The name server fails."""
    world.dns.fault(world.domain, rcode="SERVFAIL")
    heard(world)
    return {"code": world.call().code}


CASES = [
    Case(name="dns, no records", run=no_instances, named=True, shells=("sync",), expect={"code": "UNAVAILABLE"}),
    Case(name="dns, SERVFAIL", run=no_answer, named=True, shells=("sync",), expect={"code": "OK"}),
]
