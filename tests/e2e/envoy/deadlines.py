"""Cases: the time limits of a call, and the deadlines that the servers get."""

import time
from typing import Any

import grpc
from tests.e2e.envoy.bootstrap import Service
from tests.e2e.envoy.case import Case, Figures
from tests.e2e.envoy.stage import World

from meshlib import RetryPolicy

WHEN = "/meshlib.tests.Deadline/When"
SPENT = 0.6
"""Seconds."""


def add_deadline_to_server(server: grpc.Server) -> None:
    """Serve a method that answers with its deadline by the clock of this process."""

    def when(_: bytes, context: grpc.ServicerContext) -> bytes:
        return str(time.monotonic() + context.time_remaining()).encode()

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"When": grpc.unary_unary_rpc_method_handler(when)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("meshlib.tests.Deadline", handlers),))


def silent(world: World) -> Figures:
    """The server does not answer; the policy's limit is shorter than the caller's."""
    return _given_up(world, None)


def silent_caller(world: World) -> Figures:
    """The same, but the caller sets the limit."""
    return _given_up(world, 0.2)


def _given_up(world: World, timeout: float | None) -> Figures:
    server = world.servers[0]
    server.fault(hang=True)
    result = world.call(timeout=timeout)
    world.until(lambda: server.in_flight == 0, "the server is told")
    return {"code": result.code, "retries": str(world.retries(result))}


def what_is_left(world: World) -> Figures:
    """Some of ten seconds is spent on an attempt that fails; is the deadline of the next that much later?"""
    world.servers[0].fault(code="UNAVAILABLE", delay=SPENT, times=1)
    deadline = time.monotonic() + 10.0
    result = world.call(method=WHEN, timeout=10.0)
    late = float(result.messages[0]) - deadline
    return {
        "code": result.code,
        "attempts": str(world.attempts(result)),
        "the second attempt is given": "all of it" if late > SPENT / 2 else "what is left",
    }


def nobody_to_wait_for(world: World) -> Figures:
    """A caller waits for a server, and there is none until its deadline."""
    world.stop(world.servers[0])
    return {"code": world.call(wait_for_ready=True, timeout=0.2).code}


CASES = [
    Case(
        name="time-out of the policy",
        run=silent,
        # If max_stream_duration is set, even empty, Envoy does not apply the route's timeout to a call.
        envoy=Service(route={"timeout": "0.2s", "max_stream_duration": None}),
        meshlib={"timeout": 0.2},
        expect={"code": "UNAVAILABLE", "retries": "0"},
    ),
    Case(
        name="time-out of the policy, max_stream_duration",
        run=silent,
        envoy=Service(route={"max_stream_duration": {"max_stream_duration": "0.2s"}}),
        meshlib={"timeout": 0.2},
        expect={"code": "DEADLINE_EXCEEDED", "retries": "0"},
    ),
    Case(
        name="time-out of the caller",
        run=silent_caller,
        meshlib={"retry": RetryPolicy()},
        envoy=Service(retry_policy={"retry_on": "unavailable,reset", "num_retries": 2}),
        expect={"code": "DEADLINE_EXCEEDED", "retries": "0"},
    ),
    Case(
        name="deadline of a retry",
        run=what_is_left,
        add=add_deadline_to_server,
        envoy=Service(retry_policy={"retry_on": "unavailable", "num_retries": 2}),
        meshlib={"retry": RetryPolicy()},
        expect={"code": "OK", "attempts": "2", "the second attempt is given": "all of it"},
    ),
    Case(
        name="wait for ready",
        run=nobody_to_wait_for,
        expect={"code": "UNAVAILABLE"},
    ),
]
