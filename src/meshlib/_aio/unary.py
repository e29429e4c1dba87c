"""Calls with one request and one response."""

from typing import Any, final

import grpc.aio

from meshlib._aio.futures import UnaryResponse
from meshlib._aio.requests import serialized
from meshlib._aio.runtime import ChannelHandle
from meshlib._control.invocation import Invocation

__all__ = ["UnaryUnaryCall"]


@final
class UnaryUnaryCall(UnaryResponse, grpc.aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """One request, one response.

    It is its own engine, which makes it cheap. An application may drop it, and it runs to its end, as in grpc.aio: fire
    and forget.
    """

    def __init__(self, lease: ChannelHandle, invocation: Invocation, request: Any) -> None:
        super().__init__(lease, invocation, streaming=False)
        self._data = serialized(request, invocation.method)
        self.begin()

    def request(self, n: int) -> Any:
        return self._data

    async def wait_for_connection(self) -> None:
        await self.raise_for_status()
