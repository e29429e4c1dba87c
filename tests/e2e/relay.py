"""A network path that breaks on request: a TCP relay on loopback before one server.

with Relay(server.address) as relay:
    channel = meshlib.channel(f"static:///{relay.address}")
    relay.reset()  # RST, even with calls in flight
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

_CHUNK = 16384
_PATIENCE = 10.0  # seconds for the relay's own thread to answer
_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close() sends RST and discards unsent bytes


class Relay:
    """Forwards every connection, from its construction to ``close``.

    A method's effect holds when it returns. Any thread may call it.

    Args:
        upstream: address of the server, as in ``127.0.0.1:41234``.
        address: address to listen on; a socket that does not listen may hold it. Port 0: any.
    """

    def __init__(self, upstream: str, address: str = "127.0.0.1:0") -> None:
        self._host, _, port = upstream.rpartition(":")
        self._port = int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._latency = 0.0
        self._refusing = False
        self._left: int | None = None
        self.up = 0
        """Bytes sent by clients."""
        self.down = 0
        """Bytes sent by the server."""
        host, _, port = address.rpartition(":")
        self._listener: socket.socket | None = socket.create_server((host, int(port)), reuse_port=True)
        self._own = self._listener.getsockname()[:2]
        self.address = "{}:{}".format(*self._own)
        self._closing = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), name="relay")
        self._thread.start()

    # --- faults ---

    def reset(self) -> None:
        """End every connection by RST, now."""
        self._do(self._reset)

    def refuse(self, refusing: bool) -> None:
        """Send RST to every connection, existing and new."""

        def refuse() -> None:
            self._refusing = refusing
            if refusing:
                self._reset()

        self._do(refuse)

    def hold(self) -> None:
        """Black hole: connections are accepted and stay open, and no byte gets through."""
        self._do(self._flowing.clear)

    def release(self) -> None:
        """Forward the held bytes; nothing is lost, as after a network partition."""
        self._do(self._flowing.set)

    def slow(self, latency: float) -> None:
        """Hold each chunk, in either direction, for ``latency`` seconds; 0: no delay."""
        self._do(lambda: setattr(self, "_latency", latency))

    def cut_after(self, count: int | None) -> None:
        """Send RST to all connections once ``count`` more bytes have arrived from the server, even inside a message;
        only once. None cancels this."""
        self._do(lambda: setattr(self, "_left", count))

    def cut(self) -> None:
        """Make the host disappear, as after a kill -9: connections break, and new ones are refused. Idempotent."""

        def cut() -> None:
            self._reset()
            self._stop_listening()

        self._do(cut)

    def mend(self) -> None:
        """Accept connections again, at the same address. Idempotent."""

        def mend() -> None:
            if self._listener is None:
                self._listener = socket.create_server(self._own, reuse_port=True)
                self._listen(self._listener)

        self._do(mend)

    def close(self) -> None:
        """Stop it and its connections; idempotent."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Relay {self.address} to {self._host}:{self._port}, {len(self._tasks)} connections>"

    # --- in the thread ---

    def _do(self, what: Callable[[], Any]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (what(), done.set()))
        if not done.wait(_PATIENCE):
            raise TimeoutError(f"{self!r} did not answer in {_PATIENCE} s")

    async def _run(self) -> None:
        assert self._listener is not None
        self._listen(self._listener)
        await self._closing.wait()
        self._reset()
        self._stop_listening()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE)

    # asyncio's own server loses a connection that it is accepting when it is closed.

    def _listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> bool:
        """Accept the next connection; returns whether there was one."""
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # the client has gone again
            return False
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            connection.close()

        task = self._loop.create_task(self._relay(connection))
        self._tasks.add(task)
        task.add_done_callback(ended)
        return True

    async def _relay(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        self._writers.add(writer)
        ends = [writer]
        try:
            if self._refusing:
                return
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            self._writers.add(far_writer)
            ends.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, counts=False))
                group.create_task(self._pump(far_reader, writer, counts=True))
        except* (OSError, asyncio.CancelledError):  # no server, or a peer is gone: the other sees the same; or close()
            pass
        finally:
            for end in ends:
                self._writers.discard(end)
                _abort(end)
            for end in ends:
                with suppress(OSError):
                    await end.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        while data := await reader.read(_CHUNK):
            if counts:
                self.down += len(data)
            else:
                self.up += len(data)
            await self._flowing.wait()
            if self._latency:
                await asyncio.sleep(self._latency)
            if counts and self._left is not None:
                self._left -= len(data)
                if self._left <= 0:
                    writer.write(data[: len(data) + self._left])
                    self._left = None
                    self._reset()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError("the peer has closed")

    def _reset(self) -> None:
        """Send RST to every connection that is established for a client, accepted or not."""
        while self._listener is not None and self._accept():
            pass
        for writer in tuple(self._writers):
            _abort(writer)
        for task in self._tasks:
            task.cancel()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Send RST; idempotent."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
