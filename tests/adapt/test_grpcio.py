"""The private names of grpcio that meshlib uses are there and do what it needs, on its oldest and newest release."""

import asyncio

import grpc

from meshlib._adapt import grpcio
from meshlib._adapt.options import DEFAULTS
from meshlib._core.connectivity import IDLE, READY
from meshlib.testing import Server


def test_the_channel_is_grpcs_own_whatever_replaced_the_factories(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """An instrumentation that wraps the factories never sees a subchannel."""
    monkeypatch.setattr(grpc, "insecure_channel", lambda *_: None)
    channel = grpcio.channel("ipv4:127.0.0.1:1", DEFAULTS, None, None)
    try:
        assert type(channel).__module__ == "grpc._channel"
        assert isinstance(channel, grpc.Channel)
    finally:
        channel.close()


def test_secure_channels_take_public_credentials() -> None:
    """Credentials are unwrapped as grpc's own factory unwraps them."""
    channel = grpcio.channel("ipv4:127.0.0.1:1", (), grpc.ssl_channel_credentials(), None)
    assert grpcio.sync_state(channel)(False) == IDLE
    channel.close()


def test_the_state_of_a_sync_channel_is_asked_without_a_thread() -> None:
    """It is IDLE until asked to connect, and READY when it has."""
    with Server() as server:
        channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
        state = grpcio.sync_state(channel)
        assert state(False) == IDLE
        assert state(True) == IDLE  # it answers before it acts
        assert channel.unary_unary("/meshlib.testing.Echo/Unary")(b"x", timeout=5) == b"x"
        assert state(False) == READY
        channel.close()


def test_the_state_of_an_asyncio_channel_is_asked_likewise() -> None:
    """The same number, in the same way."""

    async def main() -> list[int]:
        channel = grpcio.aio_channel(f"ipv4:{server.address}", DEFAULTS, None, None)
        state = grpcio.aio_state(channel)
        states = [state(False)]
        await channel.unary_unary("/meshlib.testing.Echo/Unary")(b"x", timeout=5)
        states.append(state(False))
        await channel.close()
        return states

    with Server() as server:
        assert asyncio.run(main()) == [IDLE, READY]


def test_letting_go_of_a_call_that_waits_ends_it() -> None:
    """C-core gives up what is due, though grpc's own ``cancel()`` is not what is called; an ended call owes nothing."""
    with Server() as server:
        server.fault(hang=True)
        channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
        call = channel.unary_stream("/meshlib.testing.Echo/ServerStream")(b"x", timeout=10)
        grpcio.let_go(call)
        assert call.code() is grpc.StatusCode.CANCELLED
        assert call.details() == "the call was refused"
        grpcio.let_go(call)
        channel.close()
    grpcio.let_go(object())
