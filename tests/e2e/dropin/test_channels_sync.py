"""A `grpc` channel itself: its states, its end, and generated code on top of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.e2e.dropin.scenarios import LONG
from tests.e2e.dropin.service import METHODS, SCRIPT, Script, has_none, has_one
from tests.e2e.dropin.subjects import Subject

from meshlib.testing import Server

WAIT = 10.0  # seconds after which a wait fails
AT_ONCE = 0.05
READY = grpc.ChannelConnectivity.READY


class States:
    """The states that a subscriber received."""

    def __init__(self) -> None:
        self.told: list[grpc.ChannelConnectivity] = []
        self._changed = threading.Condition()

    def __call__(self, state: grpc.ChannelConnectivity) -> None:
        with self._changed:
            self.told.append(state)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[list[grpc.ChannelConnectivity]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.told), WAIT), self.told


@contextmanager
def subscribed(channel: grpc.Channel, *, try_to_connect: bool = False) -> Iterator[States]:
    """A subscription for the length of the block."""
    states = States()
    channel.subscribe(states, try_to_connect=try_to_connect)
    yield states
    channel.unsubscribe(states)


def test_is_a_channel(channel: grpc.Channel) -> None:
    """A channel is accepted as a grpc.Channel."""
    assert isinstance(channel, grpc.Channel)


def test_subscriber_is_told_the_state_first(channel: grpc.Channel) -> None:
    """A new channel is idle, and a subscriber alone does not connect it."""
    with subscribed(channel) as states:
        states.wait_for(lambda told: told != [])
        assert states.told == [grpc.ChannelConnectivity.IDLE]


def test_subscriber_that_connects(channel: grpc.Channel, server: Server) -> None:
    """try_to_connect=True leads to READY without any call; the loss of the server is notified too."""
    with subscribed(channel, try_to_connect=True) as states:
        states.wait_for(lambda told: READY in told)
        assert states.told[0] is grpc.ChannelConnectivity.IDLE
        assert all(before is not after for before, after in zip(states.told, states.told[1:], strict=False))
        server.stop()
        states.wait_for(lambda told: told[-1] is not READY)


def test_subscriber_of_nobody(channel: grpc.Channel, server: Server) -> None:
    """Without a server the subscriber is notified of a transient failure."""
    server.stop()
    with subscribed(channel, try_to_connect=True) as states:
        states.wait_for(lambda told: grpc.ChannelConnectivity.TRANSIENT_FAILURE in told)


def test_subscribers_are_apart(channel: grpc.Channel) -> None:
    """An unsubscribed callback gets no more states, the other does; unsubscribing an unknown one is not an error."""
    with subscribed(channel) as stays:
        with subscribed(channel) as leaves:
            leaves.wait_for(lambda told: told != [])
        channel.unsubscribe(lambda _: None)
        with subscribed(channel, try_to_connect=True):
            stays.wait_for(lambda told: READY in told)
        assert leaves.told == [grpc.ChannelConnectivity.IDLE]


def test_channel_ready_future(channel: grpc.Channel) -> None:
    """grpc's own future of a ready channel works, with its callbacks."""
    future = grpc.channel_ready_future(channel)
    ran: list[Any] = []
    assert future.result(timeout=WAIT) is None
    assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (True, False, False, False)
    future.add_done_callback(ran.append)
    assert ran == [future]


def test_channel_ready_future_of_nobody(channel: grpc.Channel, server: Server) -> None:
    """Without a server the future times out, and can be cancelled."""
    server.stop()
    future = grpc.channel_ready_future(channel)
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=AT_ONCE)
    assert future.cancel()
    assert future.cancelled()


def test_restarted_server(channel: grpc.Channel, server: Server) -> None:
    """A channel reconnects to a server that has returned."""
    call = channel.unary_unary(METHODS["unary_unary"])
    assert call(b"one", timeout=LONG) == b"one"
    with subscribed(channel) as states:
        states.wait_for(lambda told: told != [])
        server.stop()
        states.wait_for(lambda told: told[-1] is not READY)
    server.start()
    assert call(b"two", timeout=LONG, wait_for_ready=True) == b"two"


def test_closed(channel: grpc.Channel) -> None:
    """close() may be called again; multicallables can still be made, and their calls name the problem."""
    before = channel.unary_unary(METHODS["unary_unary"])
    channel.close()
    channel.close()
    for multicallable in (before, channel.unary_unary(METHODS["unary_unary"])):
        for invoke in (multicallable, multicallable.with_call, multicallable.future):
            with pytest.raises(ValueError, match="Cannot invoke RPC"):
                invoke(b"one", timeout=LONG)
    with pytest.raises(ValueError, match="Cannot invoke RPC"), channel:
        before(b"one")


def test_closing_ends_calls(subject: Subject, server: Server) -> None:
    """Leaving the context closes the channel, and its running calls end as cancelled by that."""
    with subject.insecure_channel(server.address) as channel:
        call = channel.unary_stream(METHODS["unary_stream"])(b"one", metadata=((SCRIPT, Script.HOLD.name),))
        server.wait_until(has_one, WAIT)
    assert (call.code(), call.details()) == (grpc.StatusCode.CANCELLED, "Channel closed!")
    server.wait_until(has_none, WAIT)


@pytest.mark.parametrize("arity", METHODS)
def test_registered_method(channel: grpc.Channel, arity: str) -> None:
    """Generated code passes a fourth argument, by name or by position."""
    codec: Callable[[bytes], bytes] = bytes.upper
    make = getattr(channel, arity)
    for multicallable in (
        make(METHODS[arity], request_serializer=codec, response_deserializer=codec, _registered_method=True),
        make(METHODS[arity], codec, codec, True),
        make(METHODS[arity], codec, codec),
    ):
        requests: Any = iter([b"one"]) if arity.startswith("stream") else b"one"
        response = multicallable(requests, timeout=LONG)
        assert (response if arity.endswith("unary") else next(response)) == b"ONE"


def test_generated_stub(subject: Subject) -> None:
    """A stub generated by protoc calls its service, one message and a stream of them."""
    servicer = health.HealthServicer()
    with (
        Server(add=lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server)) as server,
        subject.insecure_channel(server.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        request = health_pb2.HealthCheckRequest()
        assert stub.Check(request, timeout=LONG).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(request, timeout=LONG)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


def test_unknown_method(channel: grpc.Channel) -> None:
    """A call of a missing method gets the server's error."""
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/dropin.Scripted/Nothing")(b"one", timeout=LONG)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
