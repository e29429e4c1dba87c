"""A server that refuses a call like a stopping HTTP/2 server: GOAWAY, with a last stream id below that of the call."""

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

SETTINGS, GOAWAY, HEADERS, PING = 4, 7, 1, 6
ACK = 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class GoawayServer:
    """Accepts connections and answers the first call of each with GOAWAY: "not processed, and no error" (RFC 9113 6.8).

    Then it serves no further connection, like a stopped server.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connection: socket.socket | None = None
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.refused = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        self._connection = connection
        with connection, suppress(OSError):  # the peer or __exit__ has closed it
            connection.settimeout(20)
            self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        connection.sendall(frame(SETTINGS, 0, 0))
        self._read(connection, len(PREFACE))
        while True:
            head = self._read(connection, 9)
            payload = self._read(connection, int.from_bytes(head[:3], "big"))
            kind, flags = head[3], head[4]
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                connection.sendall(frame(PING, ACK, 0, payload))
            elif kind == HEADERS:
                self.refused += 1
                self._listener.close()
                connection.sendall(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0) + b"Server shutdown"))

    def _read(self, connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise OSError("the peer closed the connection")
            data += more
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, self._connection):
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close() alone does not
        self._thread.join(5)
        self._listener.close()
