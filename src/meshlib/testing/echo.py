"""A gRPC service without protobuf: bytes in, the same bytes out, in the four kinds of call.

    channel.unary_unary(echo.UNARY)(b"hello")      # b"hello"

What a caller asks for by request metadata works on every ``Server`` and ``ProcessServer``, and but for ``COUNT`` for
users' own servicers too.
"""

from collections.abc import Iterator
from typing import Any

import grpc

SERVICE = "meshlib.testing.Echo"
UNARY = f"/{SERVICE}/Unary"
"""The request."""
SERVER_STREAM = f"/{SERVICE}/ServerStream"
"""The request ``COUNT`` times."""
CLIENT_STREAM = f"/{SERVICE}/ClientStream"
"""The requests joined."""
BIDI_STREAM = f"/{SERVICE}/BidiStream"
"""Each request as it comes."""

SERVER_NAME = "meshlib-server"
"""Response initial metadata: the name of the server that answered. Sent with the first message, not before."""
REQUEST_ID = "meshlib-request-id"
"""Request metadata: what executions are counted by."""
DELAY_MS = "meshlib-delay-ms"
"""Request metadata: how many milliseconds the handler holds the call before it starts to answer."""
COUNT = "meshlib-count"
"""Request metadata: how many messages ``SERVER_STREAM`` answers with; 3 if absent."""


def metadata_value(context: grpc.ServicerContext, key: str) -> str | None:
    """The first value of ``key`` in the request's metadata, None if there is none."""
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
    """Serve the four methods on ``server``."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(_server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(_client_stream),
        "BidiStream": grpc.stream_stream_rpc_method_handler(_bidi_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
