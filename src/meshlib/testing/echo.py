"""Echo service without protobuf: bytes in, the same bytes out, in the four kinds of call.

    channel.unary_unary(echo.UNARY)(b"hello")      # b"hello"

The request metadata below works on every ``Server`` and ``ProcessServer``, and, except ``COUNT``, for your own
servicers too.
"""

from collections.abc import Iterator
from typing import Any

import grpc

SERVICE = "meshlib.testing.Echo"
UNARY = f"/{SERVICE}/Unary"
"""Unary method that responds with the request."""
SERVER_STREAM = f"/{SERVICE}/ServerStream"
"""Server streaming method that responds with the request ``COUNT`` times."""
CLIENT_STREAM = f"/{SERVICE}/ClientStream"
"""Client streaming method that responds with the requests joined."""
BIDI_STREAM = f"/{SERVICE}/BidiStream"
"""Bidirectional streaming method that responds with each request as it arrives."""

SERVER_NAME = "meshlib-server"
"""Initial metadata of responses, with the name of the server. Sent with the first message, not before."""
REQUEST_ID = "meshlib-request-id"
"""Request metadata by which executions are counted."""
DELAY_MS = "meshlib-delay-ms"
"""Request metadata with the milliseconds that the handler waits before it answers."""
COUNT = "meshlib-count"
"""Request metadata with the number of response messages of ``SERVER_STREAM``; 3 if absent."""


def metadata_value(context: grpc.ServicerContext, key: str) -> str | None:
    """Return the first value of ``key`` in the request's metadata; None if there is none."""
    return next((str(value) for name, value in context.invocation_metadata() if name == key), None)


def _unary(request: bytes, _: grpc.ServicerContext) -> bytes:
    return request


def _server_stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in range(int(metadata_value(context, COUNT) or 3)):
        yield request


def _client_stream(requests: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
    return b"".join(requests)


def _bidi_stream(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


def add_echo_to_server(server: grpc.Server) -> None:
    """Register the four methods on ``server``."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(_server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(_client_stream),
        "BidiStream": grpc.stream_stream_rpc_method_handler(_bidi_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
