"""Events during a short blocking call have the same effect as on grpc's own, made at the same time."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc
from tests.adapt.blocking_calls import PATIENCE, account, ask
from tests.e2e.relay import Relay

from meshlib._adapt import grpcio
from meshlib._adapt.options import DEFAULTS
from meshlib.testing import Server

METHOD = "/meshlib.tests.Service/Ask"
THREADS = 8
CALLS = 150
"""Calls per thread."""


@contextmanager
def multicallables(address: str) -> Iterator[tuple[grpc.Channel, Any, Any]]:
    """A channel, with grpc's multicallable and ours for one of its methods."""
    channel = grpcio.channel(f"ipv4:{address}", DEFAULTS, None, None)
    try:
        theirs: Any = channel.unary_unary(METHOD, None, None, True)  # type: ignore[call-arg]
        ours = grpcio.shortened(theirs)
        assert type(ours) is grpcio.BlockingUnaryUnary
        yield channel, theirs, ours
    finally:
        channel.close()


def serving(answer: Callable[[bytes, grpc.ServicerContext], bytes]) -> Callable[[grpc.Server], None]:
    """A function that adds ``METHOD`` to a server."""
    service, _, name = METHOD[1:].partition("/")
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    handlers = grpc.method_handlers_generic_handler(service, {name: handler})
    return lambda server: server.add_generic_rpc_handlers((handlers,))


@pytest.mark.parametrize("what", ["the channel is closed", "the connection is lost", "the server ends"])
def test_a_call_that_the_server_holds(what: str) -> None:
    """Both calls fail with the same details."""
    with (
        Server(add=serving(lambda request, _: request)) as server,
        Relay(server.address) as relay,
        ThreadPoolExecutor(2) as pool,
    ):
        server.fault(hang=True)
        with multicallables(relay.address) as (channel, theirs, ours):
            under_way: list[Future[bytes]] = [pool.submit(ask, call) for call in (theirs, ours)]
            server.wait_until(lambda held: held.in_flight == 2, PATIENCE)
            {"the channel is closed": channel.close, "the connection is lost": relay.reset}.get(what, server.stop)()
            expected, found = [account(call.exception(PATIENCE)) for call in under_way]
    assert found == expected
    code = grpc.StatusCode.CANCELLED if what == "the channel is closed" else grpc.StatusCode.UNAVAILABLE
    assert found[1] is code


def test_inside_the_handler_of_a_server_that_has_a_deadline() -> None:
    """The deadline does not apply to calls made by the handler: released wheels of grpc have no such context, and the
    timeout of a mesh in a server would be its own."""
    told: list[object] = []

    def relayed(_: bytes, context: grpc.ServicerContext) -> bytes:
        told.extend((context.time_remaining(), cygrpc.get_deadline_from_context()))
        return b" ".join(call(b"x", None, None, None, None, None) for call in (theirs, ours))

    def left(_: bytes, context: grpc.ServicerContext) -> bytes:
        remaining = context.time_remaining()
        return b"none" if remaining is None or remaining > 1e6 else f"{remaining}".encode()

    with (
        Server(add=serving(left)) as inner,
        Server(add=serving(relayed)) as outer,
        multicallables(inner.address) as (_, theirs, ours),
        grpc.insecure_channel(f"ipv4:{outer.address}", [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        answer = channel.unary_unary(METHOD)(b"x", timeout=PATIENCE)
    remaining, context = told
    assert isinstance(remaining, float)
    assert 0 < remaining < 2 * PATIENCE
    assert (context, answer) == (None, b"none none")


def test_many_threads_on_one_multicallable(rng: Random) -> None:
    """Each call gets the response to its own request, or its own failure."""
    failing = frozenset(rng.sample(range(THREADS * CALLS), THREADS * CALLS // 4))

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if int(request) in failing:
            context.abort(grpc.StatusCode.ABORTED, request.decode())
        return request

    def run(call: Callable[..., bytes], numbers: range) -> list[tuple[int, str]]:
        together.wait(PATIENCE)
        return [outcome(call, number) for number in numbers]

    def outcome(call: Callable[..., bytes], number: int) -> tuple[int, str]:
        try:
            return number, call(str(number).encode(), PATIENCE, None, None, None, None).decode()
        except grpc.RpcError as error:
            failure: Any = error
            return number, f"{failure.code().name} {failure.details()}"

    together = threading.Barrier(THREADS)
    with (
        Server(add=serving(answer)) as server,
        multicallables(server.address) as (_, _, ours),
        ThreadPoolExecutor(THREADS) as pool,
    ):
        parts = [range(first, THREADS * CALLS, THREADS) for first in range(THREADS)]
        found = [pair for pairs in pool.map(run, [ours] * THREADS, parts) for pair in pairs]
    assert Counter(number for number, _ in found) == Counter(range(THREADS * CALLS))
    wrong = [pair for pair in found if pair[1] != (f"ABORTED {pair[0]}" if pair[0] in failing else f"{pair[0]}")]
    assert not wrong
