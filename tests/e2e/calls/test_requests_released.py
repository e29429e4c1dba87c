"""A call that has ended does not keep its request, or the iterator of its requests, alive."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest
from tests.e2e.kinds import KINDS, METHODS, PATIENCE, answers

import meshlib
import meshlib.aio
from meshlib.testing import Server


class Request:
    """A request before it is serialized."""

    def __init__(self) -> None:
        self.text = b"x"


class Requests:
    """An iterator of one request, and not a generator."""

    def __init__(self) -> None:
        self._left = [Request()]

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        if not self._left:
            raise StopIteration
        return self._left.pop()


def serialized(request: Request) -> bytes:
    """The bytes of a request."""
    return request.text


@pytest.fixture(autouse=True)
def _no_collections() -> Iterator[None]:
    """What is held by a cycle alone is not released."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_releases_what_it_has_sent(kind: str) -> None:
    """The handle may be kept for long: its request may be large."""
    with Server() as server, meshlib.channel(f"static:///{server.address}") as channel:
        make = getattr(channel, kind)(METHODS[kind], request_serializer=serialized)
        given = Requests() if kind.startswith("stream") else Request()
        known = weakref.ref(given)
        call = (make.future if kind.endswith("unary") else make)(given, timeout=PATIENCE)
        del given
        assert set(answers(kind, call)) == {b"x"}
        assert known() is None
        assert call.done()


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_an_asyncio_call_releases_its_request(kind: str) -> None:
    """The same. grpc.aio keeps the iterators of streams of requests, and so does meshlib."""
    with Server() as server:
        async with meshlib.aio.channel(f"static:///{server.address}") as channel:
            given = Request()
            known = weakref.ref(given)
            call = getattr(channel, kind)(METHODS[kind], request_serializer=serialized)(given, timeout=PATIENCE)
            del given
            async with asyncio.timeout(PATIENCE):
                if kind == "unary_unary":
                    assert await call == b"x"
                else:
                    assert {message async for message in call} == {b"x"}
            assert known() is None
            assert call.done()
