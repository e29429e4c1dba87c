"""A wire between clients and a server that can be cut: to the clients the host is then gone, as after a kill -9."""

import asyncio
import threading
from contextlib import suppress
from typing import Self

_SECONDS = 10.0


class Relay:
    """Takes connections at an address and passes on what it reads, but for the time from ``cut`` to ``mend``.

    Args:
        address: ``IP:port``; it may be reserved.
        server: Where the server really is.
    """

    def __init__(self, address: str, server: str) -> None:
        self._address = address
        self._server = server
        self._thread: threading.Thread | None = None
        self.mend()

    def mend(self) -> None:
        """Take connections, again. Idempotent."""
        if self._thread is None:
            ready = threading.Event()
            self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="relay")
            self._thread.start()
            if not ready.wait(_SECONDS):
                raise TimeoutError(f"the relay at {self._address} does not listen after {_SECONDS:g} s")

    def cut(self) -> None:
        """Break every connection, refuse new ones; returns when that is done. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._cut.set)
            thread.join(_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cut()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._cut = asyncio.get_running_loop(), asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        listener = await asyncio.start_server(self._pass_on, *_pair(self._address), reuse_port=True)
        ready.set()
        await self._cut.wait()
        listener.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        server_reader, server_writer = await asyncio.open_connection(*_pair(self._server))
        self._writers.append(server_writer)
        await asyncio.gather(_pump(reader, server_writer), _pump(server_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
