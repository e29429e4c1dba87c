"""Sockets of the test name server: UDP and TCP on one port, served by an event loop in its own thread."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Literal

Transport = Literal["udp", "tcp"]
Responder = Callable[[bytes, Transport], tuple[bytes, float] | None]
"""Maps a message to the answer and the seconds to wait before sending it, or to None for no answer."""


class Listener:
    """Serves ``host:port`` from its construction until ``close``.

    Raises:
        OSError: The port is taken, for UDP or for TCP.
    """

    def __init__(self, host: str, port: int, respond: Responder) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # beside the reservation of the port
            for sock in (udp, tcp):
                sock.setblocking(False)
                sock.bind((host, port))
            tcp.listen()
        except OSError as error:
            udp.close()
            tcp.close()
            raise OSError(error.errno, f"cannot serve DNS on {host} port {port}: {error.strerror}") from error
        self._respond = respond
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(udp, tcp), name=f"meshlib-dns-{port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the sockets and end the thread; returns when both are done."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self, udp: socket.socket, tcp: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(udp, tcp))

    async def _serve(self, udp: socket.socket, tcp: socket.socket) -> None:
        connections: set[asyncio.Transport] = set()
        datagrams, _ = await self._loop.create_datagram_endpoint(lambda: _Udp(self._respond), sock=udp)
        listener = await self._loop.create_server(lambda: _Tcp(self._respond, connections), sock=tcp)
        await self._closing.wait()
        # A connection that is accepted and has no transport yet would be lost, still open, if the listener closed now.
        self._loop.remove_reader(tcp)
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        listener.close()
        datagrams.close()
        for connection in connections:
            connection.abort()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn of the loop


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, respond: Responder) -> None:
        self._respond = respond

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if answer := self._respond(data, "udp"):
            wire, delay = answer
            asyncio.get_running_loop().call_later(delay, self._transport.sendto, wire, addr)


class _Tcp(asyncio.Protocol):
    """TCP connection: any number of messages, each after two bytes of length (RFC 1035 4.2.2)."""

    def __init__(self, respond: Responder, connections: set[asyncio.Transport]) -> None:
        self._respond = respond
        self._connections = connections
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + (length := int.from_bytes(self._buffer[:2])):
            message = bytes(self._buffer[2 : 2 + length])
            del self._buffer[: 2 + length]
            if answer := self._respond(message, "tcp"):
                wire, delay = answer
                asyncio.get_running_loop().call_later(delay, self._transport.write, len(wire).to_bytes(2) + wire)
