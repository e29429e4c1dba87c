"""A name server for tests, in this process: it answers as told, fails as told, and remembers what it was asked.

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
    """A question that the server was asked."""

    name: str
    """In lower case, without the final dot: ``svc-a.mesh.test``."""
    type: str
    """``A``, ``SRV`` ..."""
    transport: Transport
    payload: int | None
    """The UDP payload, in bytes, that the client takes (EDNS, RFC 6891); None without EDNS, which means 512."""
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
    """An authoritative name server on 127.0.0.1, UDP and TCP on one port, in a thread of its own.

    It knows every name: one that has no records is NXDOMAIN, one that has others, or names below it, is NODATA; both
    with an SOA. CNAMEs are followed. What does not fit the client's UDP payload is truncated and served over TCP. There
    is no additional section. Records keep the order in which they were added.

    It serves from its construction to ``stop`` and, on the same port, again after ``start``. Its methods may be called
    from any thread and from asyncio: only ``wait_for_queries`` waits, and ``stop`` and ``close`` for the thread's end.

    Args:
        host: The IP address to serve on.
        port: 0 is any free one.
        negative_ttl: For how many seconds a missing name may be remembered (RFC 2308).

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
        """``127.0.0.1:41234``, as it stands in a target: ``dns://127.0.0.1:41234/svc-a.mesh.test``."""
        return self._reservation.address

    # --- records ---

    def add(self, name: str, rdtype: str, *rdatas: str, ttl: int = 1) -> None:
        """Add records in the words of a zone file: ``add("svc-a.mesh.test", "A", "127.0.0.11", "127.0.0.12")``.

        Names are complete with or without a final dot. The whole set of that name and type takes the ``ttl`` (seconds).

        Raises:
            ValueError: The type is unknown, the text is no record of it, or a CNAME would not stand alone.
        """
        with self._changed:
            self._zone.add(name, rdtype, rdatas, ttl)

    def set(self, name: str, rdtype: str, *rdatas: str, ttl: int = 1) -> None:
        """Put these records in the place of all those of that name and type, in one step; see ``add``."""
        with self._changed:
            self._zone.add(name, rdtype, rdatas, ttl, replace=True)

    def remove(self, name: str, rdtype: str | None = None, *rdatas: str) -> None:
        """Remove these records, or all of that type, or all of that name; what is not there is not missed."""
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
        """Let answers go wrong, from the next one on: to a name and type, to a name, to a type, or all.

        The narrowest fault counts; of equals those with ``times`` are used up first, in the order given.

        Args:
            name: Only questions for this name.
            rdtype: Only questions of this type: ``"SRV"``.
            rcode: Answer with this code and no records: ``"SERVFAIL"``, ``"REFUSED"``, ``"NXDOMAIN"`` ...
            delay: Seconds to wait before the answer; other questions are answered meanwhile.
            drop: No answer at all.
            wrong_id: Answer under another message id, as a forger would.
            truncate: Over UDP answer with the TC bit and no records, although they might fit.
            empty: Answer NOERROR with no records.
            ttl: Answer with this TTL on every record, 0 for instance.
            times: For so many questions; None is until ``heal``.
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
        """Forget the faults of that name and type, or all of them; answers that are delayed stay so."""
        with self._changed:
            self._script.heal(_key(name, rdtype))

    # --- what it was asked ---

    @property
    def queries(self) -> list[Query]:
        """The questions so far, oldest first, those that got no answer too."""
        with self._changed:
            return self._queries.copy()

    def wait_for_queries(self, n: int, timeout: float = 5.0) -> list[Query]:
        """Wait until it was asked ``n`` questions in all; asyncio code does so in ``asyncio.to_thread``.

        Returns:
            The questions so far, at least ``n``.

        Raises:
            TimeoutError: There were fewer after ``timeout`` seconds; the message has them.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._queries) >= n, timeout):
                asked = ", ".join(f"{query.name} {query.type}" for query in self._queries) or "none"
                raise TimeoutError(f"{len(self._queries)} of {n} queries arrived within {timeout} s: {asked}")
            return self._queries.copy()

    # --- life ---

    def start(self) -> None:
        """Serve on the same port again; nothing if it already does. Records, faults and queries stay.

        Raises:
            OSError: Someone else took the UDP port meanwhile.
        """
        if self._listener is None:
            self._listener = Listener(self.host, self.port, self._respond)

    def stop(self) -> None:
        """Be dead: UDP and TCP are refused, connections are closed, delayed answers are lost. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def close(self) -> None:
        """Stop and give the port back. Idempotent."""
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
        """What ``Responder`` asks for; runs in the listener's thread."""
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
