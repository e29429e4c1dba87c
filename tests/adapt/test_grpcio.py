"""The private names of grpcio that meshlib uses exist and work, on its oldest and newest release."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from meshlib._adapt import grpcio
from meshlib._adapt.options import DEFAULTS
from meshlib._core.connectivity import IDLE, READY
from meshlib.testing import Server, echo


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
    """Credentials are unwrapped as in grpc's own factory."""
    channel = grpcio.channel("ipv4:127.0.0.1:1", (), grpc.ssl_channel_credentials(), None)
    assert grpcio.sync_state(channel)(False) == IDLE
    channel.close()


def test_the_state_of_a_sync_channel_is_asked_without_a_thread() -> None:
    """IDLE until asked to connect, and READY once connected."""
    with Server() as server:
        channel = grpcio.channel(f"ipv4:{server.address}", DEFAULTS, None, None)
        state = grpcio.sync_state(channel)
        assert state(False) == IDLE
        assert state(True) == IDLE  # the returned state precedes the action
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
    """C-core cancels the call, though grpc's own ``cancel()`` is not called; an ended call is unaffected."""
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


async def requests(*messages: Any) -> AsyncIterator[Any]:
    """An iterator of the messages."""
    for message in messages:
        yield message


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
async def test_requests_are_sent_in_order_and_ended(kind: str) -> None:
    """Like the requests of an iterator in grpc.aio."""
    with Server() as server:
        channel = grpcio.aio_channel(f"ipv4:{server.address}", DEFAULTS, None, None)
        send = grpcio.sending(
            getattr(channel, kind)(echo.CLIENT_STREAM if kind == "stream_unary" else echo.BIDI_STREAM)
        )
        call = send(requests(b"1", b"2", b"3"), timeout=10)
        assert [await call] if kind == "stream_unary" else [message async for message in call]
        assert await call.code() is grpc.StatusCode.OK
        await channel.close()


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
async def test_after_a_call_was_cancelled_no_request_is_sent(kind: str) -> None:
    """The sending task ends, with the next request at the latest: grpc.aio does not always end it."""
    cancelled = asyncio.Event()

    async def two() -> AsyncIterator[bytes]:
        yield b"x"
        await cancelled.wait()
        yield b"late"

    with Server() as server:
        channel = grpcio.aio_channel(f"ipv4:{server.address}", DEFAULTS, None, None)
        call = grpcio.sending(getattr(channel, kind)(echo.CLIENT_STREAM))(two(), timeout=10)
        await asyncio.to_thread(server.wait_until, lambda server: server.in_flight == 1)
        call.cancel()
        cancelled.set()
        await asyncio.wait([call._async_request_poller], timeout=10)
        assert call._async_request_poller.done()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await channel.close()


async def test_a_request_that_is_no_bytes_cancels_the_call() -> None:
    """As in grpc.aio."""
    with Server() as server:
        channel = grpcio.aio_channel(f"ipv4:{server.address}", DEFAULTS, None, None)
        call = grpcio.sending(channel.stream_unary(echo.CLIENT_STREAM))(requests(b"x", "text"), timeout=10)
        assert await call.code() is grpc.StatusCode.CANCELLED
        await channel.close()
