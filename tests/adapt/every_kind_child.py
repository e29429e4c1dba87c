"""Calls of every kind on both shells, in a process whose grpcio lacks private names that meshlib would use.

usage: every_kind_child.py ADDRESS [NAME ...]

For each NAME of ``grpc._cython.cygrpc`` a child of this process calls with that name hidden from meshlib. Without a
NAME, this process calls. ``everything`` makes meshlib treat every private part as missing. Prints a line for each: the
name, and the missing features in meshlib's log.
"""

import asyncio
import importlib
import logging
import os
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

DEADLINE = 20.0


class Hiding(ModuleType):
    """A module that hides one of its names."""

    def __init__(self, module: ModuleType, name: str) -> None:
        super().__init__(module.__name__)
        self._module, self._name = module, name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise AttributeError(f"{self.__name__} has no {name} any more")
        return getattr(self._module, name)


def main(address: str, names: list[str]) -> int:
    """Return the number of names that calls fail without."""
    if not names:
        exercise(address, "")
        return 0
    for module in ("_channel", "_interceptor", "_observability", "aio._channel", "aio._interceptor"):
        importlib.import_module(f"grpc.{module}")  # grpc itself needs all of its names
    children = [forked(address, name) for name in names]
    return sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in children)


def forked(address: str, name: str) -> int:
    """Fork a child that calls without ``name``; grpc is imported but inactive. Return its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            hide(name)
            exercise(address, name)
            status = 0
        except BaseException:  # noqa: BLE001 - a child must not run on as its parent
            print(f"without {name}:\n{traceback.format_exc()}", flush=True)  # noqa: T201 - the test reads it
        os._exit(status)
    return pid


def hide(name: str) -> None:
    """Hide ``name`` from later imports."""
    if name == "everything":
        from meshlib._adapt.grpcio import features

        for feature in features.ALL:
            feature.lose()
        return
    hiding = Hiding(sys.modules["grpc._cython.cygrpc"], name)
    sys.modules["grpc._cython.cygrpc"] = hiding
    sys.modules["grpc._cython"].cygrpc = hiding  # type: ignore[attr-defined]


def exercise(address: str, name: str) -> None:
    """Make calls of all kinds, some of which fail."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("meshlib").addHandler(handler)
    logging.getLogger("meshlib").setLevel(logging.INFO)
    import meshlib

    target = f"static:///{address}"
    with meshlib.channel(target, retry=None) as channel:
        threads(channel)
    with meshlib.channel(target, retry=None) as channel:
        threads(grpc.intercept_channel(channel, SyncInterceptor()))
    asyncio.run(loops(target))
    lost = [record.getMessage() for record in records if "private names" in record.getMessage()]
    assert len(lost) <= 1, lost
    line = f"{name}: {lost[0] if lost else ''}\n"
    os.write(sys.stdout.fileno(), line.encode())  # in one write, so that lines of several children do not mix


class SyncInterceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Intercepts the unary calls."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details, request)


def threads(channel: Any) -> None:
    """Call on the sync shell."""
    from meshlib.testing import echo

    def requests() -> Iterator[bytes]:
        yield from (b"a", b"b")

    unary = channel.unary_unary(echo.UNARY)
    assert unary(b"x", timeout=DEADLINE) == b"x"
    answer, call = unary.with_call(b"y", timeout=DEADLINE)
    assert (answer, call.code()) == (b"y", grpc.StatusCode.OK)
    assert dict(call.initial_metadata())[echo.SERVER_NAME]
    assert unary.future(b"z", timeout=DEADLINE).result() == b"z"
    assert list(channel.unary_stream(echo.SERVER_STREAM)(b"s", timeout=DEADLINE)) == [b"s"] * 3
    assert channel.stream_unary(echo.CLIENT_STREAM)(requests(), timeout=DEADLINE) == b"ab"
    assert list(channel.stream_stream(echo.BIDI_STREAM)(requests(), timeout=DEADLINE)) == [b"a", b"b"]
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/no.such.Service/Method")(b"", timeout=DEADLINE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
    assert caught.value.details()  # type: ignore[attr-defined]
    left = channel.unary_stream(echo.SERVER_STREAM)(b"s", timeout=DEADLINE, metadata=((echo.DELAY_MS, "5000"),))
    assert left.cancel() is not False
    assert left.code() is grpc.StatusCode.CANCELLED


seen: list[str] = []
"""Kinds of the calls that went through an interceptor of grpc.aio."""


def interceptor(kind: str) -> Any:
    """An interceptor of grpc.aio for calls of that kind; an object can intercept only one kind."""

    async def see(_: Any, continuation: Any, details: Any, request: Any) -> Any:
        seen.append(kind)
        return await continuation(details, request)

    words = kind.split("_")
    base = getattr(grpc.aio, f"{words[0].title()}{words[1].title()}ClientInterceptor")
    return type(kind, (base,), {f"intercept_{kind}": see})()


async def loops(target: str) -> None:
    """Call on the asyncio shell."""
    from meshlib import aio
    from meshlib.testing import echo

    async def requests() -> AsyncIterator[bytes]:
        for request in (b"a", b"b"):
            yield request

    kinds = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
    for given in ([], [interceptor(kind) for kind in kinds]):
        async with aio.channel(target, retry=None, interceptors=given) as channel:
            call = channel.unary_unary(echo.UNARY)(b"x", timeout=DEADLINE)
            assert await call == b"x"
            assert await call.code() is grpc.StatusCode.OK
            assert len(call.mesh.attempts) == 1
            stream = channel.unary_stream(echo.SERVER_STREAM)(b"s", timeout=DEADLINE)
            assert [message async for message in stream] == [b"s"] * 3
            assert await channel.stream_unary(echo.CLIENT_STREAM)(requests(), timeout=DEADLINE) == b"ab"
            stream = channel.stream_stream(echo.BIDI_STREAM)(requests(), timeout=DEADLINE)
            assert [message async for message in stream] == [b"a", b"b"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/no.such.Service/Method")(b"", timeout=DEADLINE)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert seen == ([*kinds, "unary_unary"] if given else [])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
