"""A server with few concurrent streams and short-lived connections: other calls are queued inside C-core, and stay
there at GOAWAY (RFC 9113 5.1.2, 6.8; gRPC: ``max_concurrent_streams``, ``max_connection_age``)."""

import asyncio
import struct
import threading
from contextlib import suppress
from typing import Self

from tests.e2e.goaway import ACK, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame

DATA, END_HEADERS, END_STREAM, MAX_CONCURRENT_STREAMS = 0, 4, 1, 3
HOLD = 0.01
"""Seconds that a call takes, so that others are queued."""
LINGER = 0.05
"""Seconds from GOAWAY to the end of the connection."""


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that is not indexed (RFC 7541 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"\x88" + _literal(b"content-type", b"application/grpc")


class FewStreamsServer:
    """Answers every unary call with an empty message.

    Args:
        at_once: concurrent calls per connection.
        calls: calls answered before GOAWAY and the end.
        status: status of the answers: any number, unlike grpc's own servers.
        silent: leave the message out.
    """

    def __init__(self, *, at_once: int = 100, calls: int = 1000, status: int = 0, silent: bool = False) -> None:
        self._at_once = at_once
        self._calls = calls
        self._silent = silent
        self._trailers = _literal(b"grpc-status", str(status).encode()) + _literal(b"grpc-message", b"as asked")
        self.answered = 0
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="few-streams")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        host, port = listener.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._ready.set()
        await self._stop.wait()
        listener.close()
        for writer in self._writers:
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=10)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        taken = last = 0
        writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", MAX_CONCURRENT_STREAMS, self._at_once)))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(len(PREFACE))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind in (SETTINGS, PING) and not flags & ACK:
                    writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
                elif kind == HEADERS:
                    taken, last = taken + 1, stream
                    self._loop.call_later(HOLD, self._answer, writer, stream)
                    if taken == self._calls:
                        # After the answers to all the calls it received.
                        self._loop.call_later(2 * HOLD, writer.write, frame(GOAWAY, 0, 0, struct.pack(">II", last, 0)))
                        self._loop.call_later(LINGER, writer.close)
        writer.transport.abort()

    def _answer(self, writer: asyncio.StreamWriter, stream: int) -> None:
        self.answered += 1
        writer.write(
            frame(HEADERS, END_HEADERS, stream, HEAD)
            + (b"" if self._silent else frame(DATA, 0, stream, bytes(5)))
            + frame(HEADERS, END_HEADERS | END_STREAM, stream, self._trailers)
        )
