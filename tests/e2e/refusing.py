"""A server that rejects calls unprocessed: REFUSED_STREAM, or GOAWAY with a last stream id below that of the call."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import Literal, Self

from tests.e2e.goaway import ACK, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame

RST_STREAM = 3
REFUSED_STREAM = 7

How = Literal["REFUSED_STREAM", "GOAWAY"]


class RefusingServer:
    """Rejects every call, and keeps accepting connections.

    Args:
        how: RST_STREAM for the call, or GOAWAY for it and the connection.
    """

    def __init__(self, how: How) -> None:
        self._how = how
        self.refused = 0
        """Number of rejected calls."""
        self._conversations: set[asyncio.Task[None]] = set()
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
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            host, port = listener.getsockname()
            self.address = f"{host}:{port}"
            # asyncio's own server loses a connection that it is accepting when it is closed.
            self._loop.add_reader(listener, self._accept, listener)
            self._ready.set()
            await self._stop.wait()
            self._loop.remove_reader(listener)
        for conversation in self._conversations:
            conversation.cancel()
        if self._conversations:
            await asyncio.wait(self._conversations, timeout=10)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):  # the client has gone again
            return
        connection.setblocking(False)
        conversation = self._loop.create_task(self._converse(connection))
        self._conversations.add(conversation)

        def ended(task: asyncio.Task[None]) -> None:
            self._conversations.discard(task)
            connection.close()

        conversation.add_done_callback(ended)

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await self._refuse(reader, writer)
        finally:
            writer.transport.abort()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
