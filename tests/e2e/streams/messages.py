"""The requests and the responses of streams."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

EOF = grpc.aio.EOF


async def requests(*messages: bytes) -> AsyncIterator[bytes]:
    """A request iterator."""
    for message in messages:
        yield message


async def collected(call: Any) -> list[Any]:
    """All messages of a call."""
    return [message async for message in call]


async def collected_by_reading(call: Any) -> list[Any]:
    """All messages of a call, by ``read``."""
    messages = []
    while (message := await call.read()) is not EOF:
        messages.append(message)
    return messages
