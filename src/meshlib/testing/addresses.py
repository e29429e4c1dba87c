"""Address reservations: between a kill and the restart of a server its port stays taken, and clients are refused."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reservation:
    """TCP address that is bound but not listened on, for a server that sets ``SO_REUSEPORT``, as grpc does.

    Without it a restart would race the kernel, which assigns free ports to outgoing connections.
    """

    address: str
    """``127.0.0.1:41234``, ``[::1]:41234``, or as given for ``unix:``."""
    port: int
    """0 for a unix socket."""
    _socket: socket.socket | None

    def release(self) -> None:
        """Release the port; idempotent."""
        if self._socket is not None:
            self._socket.close()


def reserve(address: str, *, exclusive: bool = False) -> Reservation:
    """Reserve ``host:port``; port 0 is a free one chosen by the kernel.

    An explicit port may have connections of an earlier server in TIME_WAIT, unless ``exclusive``, but no listener.

    Raises:
        ValueError: ``address`` is not ``host:port`` with an IP address, nor ``unix:path``.
        OSError: the address is not of this machine, or taken.
    """
    if address.startswith("unix:"):
        return Reservation(address, 0, None)
    host, colon, digits = address.rpartition(":")
    if not colon or not host or not digits.isdecimal():
        raise ValueError(f"an address is 'IP:port', '[IPv6]:port' or 'unix:path', port 0 for any: got {address!r}")
    sock = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
    try:
        if not exclusive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.strip("[]"), int(digits)))
        # Only now: before bind() these would let us bind beside someone else's listener instead of failing.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = sock.getsockname()[1]
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot serve on {address}: {error.strerror}") from error
    return Reservation(f"{host}:{port}", port, sock)


def reserve_one_port(hosts: Sequence[str], *, tries: int = 50) -> list[Reservation]:
    """Reserve the same free port on each of ``hosts``, like instances behind one DNS name."""
    for _ in range(tries):
        with ExitStack() as undo:
            reservations = [reserve(f"{hosts[0]}:0", exclusive=True)]
            undo.callback(reservations[0].release)
            try:
                for host in hosts[1:]:
                    reservations.append(reserve(f"{host}:{reservations[0].port}", exclusive=True))
                    undo.callback(reservations[-1].release)
            except OSError:
                continue
            undo.pop_all()
            return reservations
    raise OSError(f"no port was free on all of {', '.join(hosts)} in {tries} tries")
