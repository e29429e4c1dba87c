"""``meshlib.explain`` gives the mesh's record from any object of a call."""

from typing import Any

import grpc
import grpc.aio
import pytest

import meshlib
from meshlib import aio
from meshlib.testing import Server, echo

DEADLINE = 10.0


class PassThrough(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
):
    """An application interceptor that changes nothing."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details, requests)


class AioPassThrough(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """The same for asyncio."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


def codes(error_or_call: object) -> list[str | None]:
    """The codes of its attempts."""
    mesh = meshlib.explain(error_or_call)
    assert mesh is not None
    return [attempt.code for attempt in mesh.attempts]


@pytest.mark.parametrize("intercepted", [False, True])
def test_a_call_and_its_error(intercepted: bool) -> None:
    """``explain`` accepts the call of ``with_call``, a future and the exception, with interceptors too."""
    interceptors = [PassThrough()] if intercepted else []
    with Server() as server, meshlib.channel(server.address, interceptors=interceptors) as channel:
        unary = channel.unary_unary(echo.UNARY)
        assert codes(unary.with_call(b"x", timeout=DEADLINE)[1]) == ["OK"]
        assert codes(channel.stream_unary(echo.CLIENT_STREAM).with_call(iter([b"x"]), timeout=DEADLINE)[1]) == ["OK"]
        future = unary.future(b"x", timeout=DEADLINE)
        future.result()
        assert codes(future) == ["OK"]
        server.fault(code="INTERNAL", times=2)
        with pytest.raises(grpc.RpcError) as caught:
            unary(b"x", timeout=DEADLINE)
        assert codes(caught.value) == ["INTERNAL"]
        with pytest.raises(grpc.RpcError) as caught:
            unary.with_call(b"x", timeout=DEADLINE)
        assert codes(caught.value) == ["INTERNAL"]


@pytest.mark.parametrize("intercepted", [False, True])
async def test_a_call_and_its_error_in_asyncio(intercepted: bool) -> None:
    """``explain`` accepts the call object and the exception, with interceptors too."""
    interceptors = [AioPassThrough()] if intercepted else []
    with Server() as server:
        async with aio.channel(server.address, interceptors=interceptors) as channel:
            call = channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            await call
            assert codes(call) == ["OK"]
            server.fault(code="INTERNAL", times=1)
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            assert codes(caught.value) == ["INTERNAL"]


def test_what_is_not_of_meshlib_is_not_explained() -> None:
    """``explain`` gives None for errors of grpc's channels and of anything else."""
    with Server() as server, grpc.insecure_channel(server.address) as channel:
        _, call = channel.unary_unary(echo.UNARY).with_call(b"x", timeout=DEADLINE)
        assert meshlib.explain(call) is None
    assert meshlib.explain(ValueError("x")) is None
    with meshlib.channel("svc-a") as unused:
        assert meshlib.explain(unused) is None
