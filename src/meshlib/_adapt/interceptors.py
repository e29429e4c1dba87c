"""Interceptors of grpc.aio, sorted by the kind of call they serve.

grpc.aio registers an interceptor for the first kind it implements and no other. Here one class may serve all four.
"""

from collections.abc import Iterable
from typing import Any, Final

import grpc.aio

__all__ = ["KINDS", "by_kind", "one_per_kind"]

KINDS: Final = {
    "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
    "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
    "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
    "stream_stream": grpc.aio.StreamStreamClientInterceptor,
}


def by_kind(interceptors: Iterable[Any]) -> dict[str, tuple[Any, ...]]:
    """Sort interceptors by kind of call, in the order given.

    Raises:
        ValueError: one is not grpc.aio's; the same error as in grpc.aio.
    """
    given = tuple(interceptors)
    for interceptor in given:
        if not isinstance(interceptor, tuple(KINDS.values())):
            names = " or ".join(kind.__name__ for kind in KINDS.values())
            raise ValueError(  # noqa: TRY004 - what grpc.aio raises
                f"interceptor {interceptor!r} must be a {names} of grpc.aio"
            )
    return {kind: tuple(i for i in given if isinstance(i, base)) for kind, base in KINDS.items()}


def one_per_kind(interceptors: Iterable[Any]) -> tuple[Any, ...]:
    """Split interceptors that serve several kinds into one per kind."""
    return tuple(
        interceptor if sum(isinstance(interceptor, base) for base in KINDS.values()) == 1 else _FACES[kind](interceptor)
        for kind, sorted_in in by_kind(interceptors).items()
        for interceptor in sorted_in
    )


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._inner.intercept_unary_unary(continuation, client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._inner.intercept_unary_stream(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._inner.intercept_stream_unary(continuation, client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._inner.intercept_stream_stream(continuation, client_call_details, request_iterator)


_FACES: Final[dict[str, Any]] = {
    "unary_unary": _UnaryUnary,
    "unary_stream": _UnaryStream,
    "stream_unary": _StreamUnary,
    "stream_stream": _StreamStream,
}
