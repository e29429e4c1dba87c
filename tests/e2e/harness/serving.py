"""Calls to a test server over a connection of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from meshlib.testing import ProcessServer, Server, echo

DEADLINE = 10.0


@contextmanager
def channel_to(server: Server | ProcessServer) -> Iterator[grpc.Channel]:
    """A new connection, which does not wait a second before it tries again."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 50),
    ]
    with grpc.insecure_channel(server.address, options) as channel:
        yield channel


def unary(channel: grpc.Channel, payload: bytes = b"hello", *, timeout: float = DEADLINE, **metadata: str) -> bytes:
    """One unary echo; ``request_id="7"`` is sent as ``meshlib-request-id: 7``."""
    keys = tuple((f"meshlib-{key.replace('_', '-')}", value) for key, value in metadata.items())
    return channel.unary_unary(echo.UNARY)(payload, timeout=timeout, metadata=keys)


def code_of(call: object) -> str:
    """The status of a call or of its error."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call()) if callable(call) else call.result(DEADLINE)
    return caught.value.code().name
