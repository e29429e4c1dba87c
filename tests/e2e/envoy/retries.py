"""Cases: retried failures, and the hosts of the retries."""

import grpc
from tests.e2e.envoy.bootstrap import PREVIOUS_HOSTS, Service
from tests.e2e.envoy.callers import Result
from tests.e2e.envoy.case import Case, Figures, codes
from tests.e2e.envoy.stage import World

from meshlib import HedgingPolicy, RetryPolicy
from meshlib.testing import echo

PER_TRY = 0.2
"""Seconds."""
GRPC_CODES = ("CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
"""All codes with a name in Envoy's ``retry_on``."""


def policy(retry_on: str, num_retries: int = 2, **fields: object) -> Service:
    """Envoy's side."""
    return Service(retry_policy={"retry_on": retry_on, "num_retries": num_retries, **fields})


def outcome(world: World, result: Result) -> Figures:
    """The code of one call, and the number of attempts that reached servers."""
    return {"code": result.code, "attempts": str(world.attempts(result))}


def unavailable(world: World) -> Figures:
    """The server fails the call before any other response: trailers only."""
    world.servers[0].fault(code="UNAVAILABLE")
    return outcome(world, world.call())


def unavailable_after_headers(world: World) -> Figures:
    """The server sends its initial metadata first: the status comes in trailers."""
    world.servers[0].fault(code="UNAVAILABLE", initial_metadata=True)
    return outcome(world, world.call())


def unavailable_after_a_message(world: World) -> Figures:
    """One message of a stream has reached the application."""
    world.servers[0].fault(code="UNAVAILABLE", after=1)
    result = world.call(method=echo.SERVER_STREAM)
    return outcome(world, result) | {"messages": str(len(result.messages))}


def internal(world: World) -> Figures:
    """A code outside the policy."""
    world.servers[0].fault(code="INTERNAL")
    return outcome(world, world.call())


def each_code(world: World) -> Figures:
    """Each code, in trailers only."""
    retried = []
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            world.servers[0].fault(code=code)
            result = world.call()
            assert result.code == code.name
            if world.attempts(result) > 1:
                retried.append(code.name)
    return {"retried": ", ".join(sorted(retried))}


def refused(world: World) -> Figures:
    """No server listens any more. Attempts reach no server, so they are counted by the client."""
    world.stop(world.servers[0])
    result = world.call()
    return {"code": result.code, "retries": str(world.retries(result))}


def silent(world: World) -> Figures:
    """The server takes every attempt and answers none."""
    world.servers[0].fault(hang=True)
    result = world.call()
    return {"code": result.code, "retries": str(world.retries(result))}


def pushback(world: World) -> Figures:
    """The server forbids a retry by pushback."""
    world.servers[0].fault(code="UNAVAILABLE", trailing_metadata=(("grpc-retry-pushback-ms", "-1"),))
    return outcome(world, world.call())


def open_requests(world: World) -> Figures:
    """The caller of a stream has more to send when the server fails it."""
    world.servers[0].fault(code="UNAVAILABLE")
    return outcome(world, world.call(method=echo.BIDI_STREAM, open=True))


def many_requests(world: World) -> Figures:
    """The server reads a stream of requests to its end before it fails the call."""
    world.servers[0].fault(code="UNAVAILABLE", after=1)
    return outcome(world, world.call(method=echo.CLIENT_STREAM, sizes=(50_000,) * 4))


def another_host(world: World) -> Figures:
    """One of three fails everything; the first host is left to chance, the second is not."""
    world.servers[0].fault(code="UNAVAILABLE")
    results = world.calls(60)
    again = world.arrivals(*results)[0] - sum(world.arrivals(result)[0] > 0 for result in results)
    return {"codes": codes(results), "retries on the same host": str(again)}


def hedged(world: World) -> Figures:
    """The first attempt hangs; the second is made meanwhile and answers."""
    server = world.servers[0]
    server.fault(hang=True, times=1)
    result = world.call()
    world.until(lambda: server.in_flight == 0, "the attempt that lost is cancelled")
    return {"code": result.code, "retries": str(world.retries(result))}


CASES = [
    Case(
        name="unavailable",
        run=unavailable,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "attempts": "3"},
    ),
    Case(
        name="unavailable after headers",
        run=unavailable_after_headers,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "attempts": "1"},
    ),
    Case(
        name="unavailable after a message",
        run=unavailable_after_a_message,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "attempts": "1", "messages": "1"},
    ),
    Case(
        name="internal",
        run=internal,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "INTERNAL", "attempts": "1"},
    ),
    Case(
        name="each code",
        run=each_code,
        envoy=policy("cancelled,deadline-exceeded,internal,resource-exhausted,unavailable", 1),
        meshlib={"retry": RetryPolicy(max_attempts=2, retryable_status_codes=frozenset(GRPC_CODES))},
        expect={"retried": ", ".join(GRPC_CODES)},
    ),
    Case(
        name="connection refused",
        run=refused,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "retries": "0"},
    ),
    Case(
        name="connection refused, connect-failure",
        run=refused,
        envoy=policy("unavailable,connect-failure"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "retries": "2"},
    ),
    Case(
        name="attempt time-out",
        run=silent,
        envoy=policy("unavailable", per_try_timeout=f"{PER_TRY}s"),
        meshlib={"retry": RetryPolicy(per_attempt_timeout=PER_TRY)},
        expect={"code": "UNAVAILABLE", "retries": "0"},
    ),
    Case(
        name="attempt time-out, reset",
        run=silent,
        envoy=policy("unavailable,reset", per_try_timeout=f"{PER_TRY}s"),
        meshlib={"retry": RetryPolicy(per_attempt_timeout=PER_TRY)},
        expect={"code": "UNAVAILABLE", "retries": "2"},
    ),
    Case(
        name="pushback",
        run=pushback,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "attempts": "3"},
    ),
    Case(
        name="open request stream",
        run=open_requests,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "attempts": "3"},
    ),
    Case(
        name="200 KB of requests",
        run=many_requests,
        envoy=policy("unavailable"),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "UNAVAILABLE", "attempts": "3"},
    ),
    Case(
        name="another host",
        run=another_host,
        servers=3,
        envoy=Service(
            lb_policy="random",
            retry_policy={"retry_on": "unavailable", "num_retries": 1, **PREVIOUS_HOSTS},
        ),
        meshlib={"balancer": "random", "retry": RetryPolicy(max_attempts=2)},
        expect={"codes": "OK 60", "retries on the same host": "0"},
    ),
    Case(
        name="hedging",
        run=hedged,
        envoy=Service(
            retry_policy={"retry_on": "5xx", "num_retries": 1, "per_try_timeout": f"{PER_TRY}s"},
            route={"hedge_policy": {"hedge_on_per_try_timeout": True}},
        ),
        meshlib={"retry": HedgingPolicy(max_attempts=2, hedging_delay=PER_TRY)},
        expect={"code": "OK", "retries": "1"},
    ),
]
