"""One query to one name server, over UDP or TCP."""

import socket
from typing import Final

import dns.asyncbackend
import dns.asyncquery
import dns.exception

from meshlib._adapt.dns import Answer, RecordType, answer, question
from meshlib._core.address import HostPort

__all__ = ["UNREACHABLE", "UNREADABLE", "exchange", "possible"]

UNREACHABLE: Final = (OSError, EOFError)
"""Raised by :func:`exchange` if a server cannot be reached."""

UNREADABLE: Final = dns.exception.DNSException
"""Raised by :func:`exchange` if an answer cannot be parsed, or is a loop of aliases."""


async def exchange(server: HostPort, name: str, rdtype: RecordType, *, edns: bool, tcp: bool) -> Answer:
    """Query over UDP and, if the answer is truncated, again over TCP.

    The socket is connected: the kernel drops packets of other senders, and a closed port fails at once. Packets that do
    not match the query are ignored.

    Args:
        server: an address and a port.
        name: absolute, with its final dot.
        rdtype: the record type.
        edns: whether the query carries EDNS.
        tcp: use TCP at once.
    """
    backend = dns.asyncbackend.get_backend("asyncio")
    query = question(name, rdtype, edns=edns)
    port = server.port or 53
    if tcp:
        return answer(await dns.asyncquery.tcp(query, server.host, port=port, backend=backend))
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    where = (server.host, port)
    opened = backend.make_socket(family, socket.SOCK_DGRAM, destination=where)  # type: ignore[no-untyped-call]
    async with await opened as udp:
        response, _ = await dns.asyncquery.udp_with_fallback(
            query,
            server.host,
            port=port,
            udp_sock=udp,
            backend=backend,
            ignore_unexpected=True,
            ignore_errors=True,
        )
    return answer(response)


def possible(name: str) -> bool:
    """Whether ``name`` is valid in DNS: a prefix or an alias may make it too long."""
    try:
        question(name, "A")
    except dns.exception.DNSException:
        return False
    return True
