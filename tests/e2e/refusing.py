"""A server that processes no call and says so: REFUSED_STREAM, or GOAWAY with a last stream id below the call's own."""

import asyncio
import struct
import threading
from contextlib import suppress
from typing import Literal, Self

from tests.e2e.goaway import ACK, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame

RST_STREAM = 3
REFUSED_STREAM = 7

How = Literal["REFUSED_STREAM", "GOAWAY"]


class RefusingServer:
    """Refuses every call, and goes on taking connections.

    Args:
        how: RST_STREAM for the call, or GOAWAY for it and the connection.
    """

    def __init__(self, how: How) -> None:
        self._how = how
        self.refused = 0
        """Calls that it has seen."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="refusing")

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
        self._writers.add(writer)
        writer.write(frame(SETTINGS, 0, 0))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(len(PREFACE))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind in (SETTINGS, PING) and not flags & ACK:
                    writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
                elif kind == HEADERS:
                    self.refused += 1
                    if self._how == "GOAWAY":
                        writer.write(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0) + b"draining"))
                    else:
                        writer.write(frame(RST_STREAM, 0, stream, struct.pack(">I", REFUSED_STREAM)))
        writer.transport.abort()
