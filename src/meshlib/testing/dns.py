"""Name server for tests, in this process: it serves given records, fails on request, and records its queries.

with DnsServer() as dns:
    dns.add("_grpc._tcp.svc-a.mesh.test", "SRV", "0 1 50051 a.mesh.test", ttl=1)
    dns.add("a.mesh.test", "A", "127.0.0.11")
    channel = meshlib.channel(f"srv://{dns.address}/_grpc._tcp.svc-a.mesh.test")
"""

import threading
import time
from dataclasses import dataclass
from typing import Self

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from meshlib.testing.addresses import reserve
from meshlib.testing.dns_listener import Listener, Transport
from meshlib.testing.faults import Script
from meshlib.testing.zone import Zone, absolute, rdata_type, reply

__all__ = ["DnsServer", "Query"]

_LARGEST_TCP = 65535
_SMALLEST_UDP = 512
_TRIES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Query that the server received."""

    name: str
    """In lower case, without the final dot, such as ``svc-a.mesh.test``."""
    type: str
    """``A``, ``SRV`` ..."""
    transport: Transport
    payload: int | None
    """Maximum UDP payload of the client, in bytes (EDNS, RFC 6891); None without EDNS, which means 512."""
    at: float
    """``time.monotonic()``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _DnsFault:
    rcode: dns.rcode.Rcode | None
    delay: float
    drop: bool
    wrong_id: bool
    truncate: bool
    empty: bool
    ttl: int | None


_NO_FAULT = _DnsFault(rcode=None, delay=0.0, drop=False, wrong_id=False, truncate=False, empty=False, ttl=None)


class DnsServer:
    """Authoritative name server on 127.0.0.1, UDP and TCP on one port, in its own thread.

    It is authoritative for all names. A name without records is NXDOMAIN; one with other records, or names below it, is
    NODATA; both have an SOA. CNAMEs are followed. Answers larger than the client's UDP payload are truncated and served
    over TCP. There is no additional section. Records keep the order in which they were added.

    It serves from its construction to ``stop`` and, on the same port, again after ``start``. Its methods may be called
    from any thread and from asyncio: only ``wait_for_queries`` blocks, and ``stop`` and ``close`` wait for the thread.

    Args:
        host: The IP address to serve on.
        port: 0 is any free one.
        negative_ttl: Seconds for which a missing name may be cached (RFC 2308).

    Raises:
        OSError: The address is taken or not of this machine.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, negative_ttl: int = 1) -> None:
        self._changed = threading.Condition()
        self._zone = Zone(negative_ttl)
        self._script: Script[_DnsFault] = Script()
        self._queries: list[Query] = []
        self._listener: Listener | None = None
        for left in reversed(range(_TRIES)):
            self._reservation = reserve(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            )  # of TCP; the same number may be taken for UDP
            self.host = host
            self.port = self._reservation.port
            try:
                self.start()
                break
            except OSError:
                self._reservation.release()
                if port or not left:
                    raise

    @property
    def address(self) -> str:
        """Address such as ``127.0.0.1:41234``, for targets like ``dns://127.0.0.1:41234/svc-a.mesh.test``."""
        return self._reservation.address

    # --- records ---

    def add(self, name: str, rdtype: str, *rdatas: str, ttl: int = 1) -> None:
        """Add records in zone file syntax: ``add("svc-a.mesh.test", "A", "127.0.0.11", "127.0.0.12")``.

        Names are absolute with or without a final dot. ``ttl`` (seconds) applies to all records of that name and type.

        Raises:
            ValueError: The type is unknown, a record is invalid, or a CNAME would not be alone at its name.
        """
        with self._changed:
            self._zone.add(name, rdtype, rdatas, ttl)

    def set(self, name: str, rdtype: str, *rdatas: str, ttl: int = 1) -> None:
        """Replace all records of that name and type, in one step; see ``add``."""
        with self._changed:
            self._zone.add(name, rdtype, rdatas, ttl, replace=True)

    def remove(self, name: str, rdtype: str | None = None, *rdatas: str) -> None:
        """Remove these records, or all of that type, or all of that name; missing records are ignored."""
        with self._changed:
            self._zone.remove(name, rdtype, rdatas)

    # --- faults ---

    def fault(
        self,
        name: str | None = None,
        rdtype: str | None = None,
        *,
        rcode: str | None = None,
        delay: float = 0.0,
        drop: bool = False,
        wrong_id: bool = False,
        truncate: bool = False,
        empty: bool = False,
        ttl: int | None = None,
        times: int | None = None,
    ) -> None:
        """Inject a fault into answers, from the next one on: for a name and type, a name, a type, or all.

        The narrowest fault applies; among equals those with ``times`` are used up first, in the order given.

        Args:
            name: Only queries for this name.
            rdtype: Only queries of this type: ``"SRV"``.
            rcode: Answer with this code and no records: ``"SERVFAIL"``, ``"REFUSED"``, ``"NXDOMAIN"`` ...
            delay: Seconds to wait before the answer; other queries are answered meanwhile.
            drop: Do not answer.
            wrong_id: Answer with another message id, like a forged answer.
            truncate: Over UDP, answer with the TC bit and no records, even if they fit.
            empty: Answer NOERROR with no records.
            ttl: TTL of every record in the answer, such as 0.
            times: Number of queries; None: until ``heal``.
        """
        try:
            code = None if rcode is None else dns.rcode.from_text(rcode)
        except dns.exception.DNSException as error:
            known = ", ".join(known.name for known in dns.rcode.Rcode)
            raise ValueError(f"rcode must be a response code of DNS, got {rcode!r}; known: {known}") from error
        fault = _DnsFault(
            rcode=code, delay=delay, drop=drop, wrong_id=wrong_id, truncate=truncate, empty=empty, ttl=ttl
        )
        with self._changed:
            self._script.add(_key(name, rdtype), fault, times=times)

    def heal(self, name: str | None = None, rdtype: str | None = None) -> None:
        """Remove the faults of that name and type, or all; answers already delayed stay delayed."""
        with self._changed:
            self._script.heal(_key(name, rdtype))

    # --- what it was asked ---

    @property
    def queries(self) -> list[Query]:
        """Queries so far, oldest first, including those without an answer."""
        with self._changed:
            return self._queries.copy()

    def wait_for_queries(self, n: int, timeout: float = 5.0) -> list[Query]:
        """Wait until ``n`` queries were received in all; in asyncio, call it by ``asyncio.to_thread``.

        Returns:
            The queries so far, at least ``n``.

        Raises:
            TimeoutError: There were fewer after ``timeout`` seconds; the message lists them.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._queries) >= n, timeout):
                asked = ", ".join(f"{query.name} {query.type}" for query in self._queries) or "none"
                raise TimeoutError(f"{len(self._queries)} of {n} queries arrived within {timeout} s: {asked}")
            return self._queries.copy()

    # --- life ---

    def start(self) -> None:
        """Serve on the same port again; does nothing if it is serving. Records, faults and queries are kept.

        Raises:
            OSError: The UDP port was taken meanwhile.
        """
        if self._listener is None:
            self._listener = Listener(self.host, self.port, self._respond)

    def stop(self) -> None:
        """Stop serving: UDP and TCP are refused, connections are closed, delayed answers are lost. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def close(self) -> None:
        """Stop and release the port. Idempotent."""
        self.stop()
        self._reservation.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "serving" if self._listener is not None else "stopped"
        return f"<DnsServer {self.address} {state}, {len(self.queries)} queries>"

    def _respond(self, wire: bytes, transport: Transport) -> tuple[bytes, float] | None:
        """Implement ``Responder``; runs in the listener's thread."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        with self._changed:
            fault = self._note(query, transport)
            response = self._zone.answer(query)
        if fault.drop:
            return None
        if fault.rcode is not None or fault.empty:
            response = reply(query)
            response.set_rcode(fault.rcode or dns.rcode.NOERROR)
        if fault.ttl is not None:
            for records in response.answer:
                records.ttl = fault.ttl
        room = _LARGEST_TCP if transport == "tcp" else max(_SMALLEST_UDP, query.payload)
        truncated = reply(query)
        truncated.flags |= dns.flags.TC
        if fault.truncate and transport == "udp":
            response = truncated
        try:
            answer = response.to_wire(max_size=room, want_shuffle=False)
        except dns.exception.TooBig:
            answer = truncated.to_wire()
        if fault.wrong_id:
            answer = bytes((answer[0] ^ 0xFF, answer[1] ^ 0xFF)) + answer[2:]
        return answer, fault.delay

    def _note(self, query: dns.message.Message, transport: Transport) -> _DnsFault:
        for question in query.question:
            name = question.name.canonicalize()
            self._queries.append(
                Query(
                    name=name.to_text(omit_final_dot=True),
                    type=dns.rdatatype.to_text(question.rdtype),
                    transport=transport,
                    payload=query.payload if query.edns >= 0 else None,
                    at=time.monotonic(),
                )
            )
            self._changed.notify_all()
            return self._script.take((name, question.rdtype)) or _NO_FAULT
        return _NO_FAULT


def _key(name: str | None, rdtype: str | None) -> tuple[object, object]:
    return name and absolute(name).canonicalize(), rdtype and rdata_type(rdtype)
