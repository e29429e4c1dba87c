"""Cases: rejections by the circuit breaker."""

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.e2e.envoy.bootstrap import Service
from tests.e2e.envoy.budgets import GATE, budget
from tests.e2e.envoy.case import Case, Figures, codes
from tests.e2e.envoy.stage import SECONDS, World

from meshlib import CircuitBreaker, OutlierDetection, RetryBudget, RetryPolicy


def too_many_requests(world: World) -> Figures:
    """Two calls are in flight; four more are made."""
    server = world.servers[0]
    server.fault(hang=True)
    held = world.start(2)
    world.until(lambda: server.in_flight == 2, "both are inside")
    refused = world.parallel(4)
    server.heal()
    admitted = [future.result() for future in held]
    after = world.call()
    return {
        "codes": codes([*admitted, *refused]),
        "attempts": str(world.attempts(*admitted, *refused)),
        "retries": str(world.retries(*admitted, *refused)),
        "afterwards": after.code,
    }


def two_hosts(world: World) -> Figures:
    """Rejections are not failures of a host: neither of two is ejected for ten of them."""
    for server in world.servers:
        server.fault(hang=True)
    held = world.start(2)
    world.until(lambda: all(server.in_flight == 1 for server in world.servers), "one is inside each")
    refused = world.parallel(10)
    for server in world.servers:
        server.heal()
    admitted = [future.result() for future in held]
    return {"codes": codes([*admitted, *refused]), "afterwards": ", ".join(map(str, world.arrivals(*world.calls(10))))}


def too_many_wait(world: World) -> Figures:
    """The port answers no SYN: one call waits for a connection, three more are made, and then the server is back."""
    server = world.servers[0]
    with silent(server.address):
        world.stop(server)
        world.until(lambda: world.connecting, "it is dialled")
        held = world.start(1)
        world.until(lambda: world.waiting == 1, "one call waits")
        refused = world.parallel(3)
    server.start()
    return {"codes": codes([*(future.result(SECONDS) for future in held), *refused]), "afterwards": world.call().code}


@contextmanager
def silent(address: str) -> Iterator[None]:
    """Listen at ``address``, too, and accept no connection: the backlog is filled first."""
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, int(port)), backlog=0, reuse_port=True))
        while True:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            if not select.select([], [client], [], 0.2)[1]:
                yield
                return


CASES = [
    Case(
        name="max_requests",
        run=too_many_requests,
        envoy=Service(
            retry_policy={"retry_on": "5xx", "num_retries": 2},
            thresholds={"max_requests": 2},
        ),
        meshlib={"retry": RetryPolicy(), "circuit_breaker": CircuitBreaker(max_requests=2)},
        expect={"codes": "OK 2, UNAVAILABLE 4", "attempts": "2", "retries": "0", "afterwards": "OK"},
    ),
    Case(
        name="max_pending_requests",
        run=too_many_wait,
        envoy=Service(thresholds={"max_pending_requests": 1}),
        meshlib={"retry": None, "circuit_breaker": CircuitBreaker(max_pending_requests=1)},
        expect={"codes": "OK 1, UNAVAILABLE 3", "afterwards": "OK"},
    ),
    Case(
        name="max_requests and outliers",
        run=two_hosts,
        servers=2,
        envoy=Service(
            thresholds={"max_requests": 2},
            outlier_detection={"consecutive_5xx": 1, "max_ejection_percent": 50},
        ),
        meshlib={
            "circuit_breaker": CircuitBreaker(max_requests=2),
            "outlier_detection": OutlierDetection(consecutive_gateway_failure=1, max_ejection_percent=50),
        },
        expect={"codes": "OK 2, UNAVAILABLE 10", "afterwards": "5, 5"},
    ),
    Case(
        name="max_retries",
        run=budget,
        add=GATE.add_to_server,
        envoy=Service(retry_policy={"retry_on": "unavailable", "num_retries": 1}, thresholds={"max_retries": 3}),
        meshlib={
            "retry": RetryPolicy(max_attempts=2),
            "retry_budget": None,
            "circuit_breaker": CircuitBreaker(max_retries=3),
        },
        expect={"codes": "UNAVAILABLE 20", "retries": "3"},
    ),
    Case(
        name="max_retries and a budget",
        run=budget,
        add=GATE.add_to_server,
        envoy=Service(
            retry_policy={"retry_on": "unavailable", "num_retries": 1},
            thresholds={"max_retries": 3, "retry_budget": {"min_retry_concurrency": 10}},
        ),
        meshlib={
            "retry": RetryPolicy(max_attempts=2),
            "retry_budget": RetryBudget(min_retry_concurrency=10),
            "circuit_breaker": CircuitBreaker(max_retries=3),
        },
        expect={"codes": "UNAVAILABLE 20", "retries": "10"},
    ),
]
