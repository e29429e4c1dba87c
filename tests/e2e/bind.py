"""A real BIND 9 for tests: ``named`` without privileges, in its own folder, changed by signed updates (RFC 2136)."""

import base64
import secrets
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update

from meshlib.testing.addresses import reserve
from meshlib.testing.processes import Child

_CONFIGURATION = """
options {{
    directory "{directory}";
    listen-on port {port} {{ {host}; }};
    listen-on-v6 {{ none; }};
    pid-file "named.pid";
    session-keyfile "session.key";
    recursion no;
    notify no;
    dnssec-validation no;
    empty-zones-enable no;
    minimal-responses no;  // addresses of SRV targets come along, as many as there is room for
}};
controls {{}};
key "update" {{ algorithm hmac-sha256; secret "{secret}"; }};
zone "{zone}" {{ type primary; file "zone"; allow-update {{ key "update"; }}; }};
"""

_ZONE = """
$ORIGIN {zone}.
$TTL 1
@ SOA {nonce} hostmaster 1 3600 600 86400 1
@ NS {nonce}
{nonce} A {host}
"""

_SECONDS = 10.0


class Bind:
    """``named``, authoritative for one zone, with the methods of ``meshlib.testing.DnsServer`` to change it.

    It serves from its construction and keeps its port and its records until ``close``, over stop, kill and start.
    UDP responses are limited to the client's payload, at most 1232 bytes; the order of records is BIND's own.

    Args:
        program: The path of ``named``.
        directory: An empty folder for its files.
        zone: Its zone; queries for other names get REFUSED.
    """

    def __init__(self, program: Path, directory: Path, *, zone: str = "mesh.test") -> None:
        self.host = "127.0.0.1"
        self.zone = zone
        self._reservation = reserve(f"{self.host}:0")
        self.port = self._reservation.port
        self._nonce = f"ns-{secrets.token_hex(4)}"  # distinguishes our named from any other on this port
        secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self._keyring = dns.tsigkeyring.from_text({"update": secret})
        facts = {"directory": directory, "host": self.host, "port": self.port, "secret": secret, "zone": zone}
        (directory / "named.conf").write_text(_CONFIGURATION.format(**facts))
        (directory / "zone").write_text(_ZONE.format(nonce=self._nonce, **facts))
        command = [str(program), "-g", "-4", "-n", "1", "-c", str(directory / "named.conf")]
        self._child = Child(command, log=directory / "log")
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """``127.0.0.1:41234``, as in the target ``dns://127.0.0.1:41234/svc-a.mesh.test``."""
        return self._reservation.address

    def add(self, name: str, rdtype: str, *rdatas: str, ttl: int = 1) -> None:
        """Add records; names are complete, with or without a final dot. The whole set gets the TTL, in seconds.

        A CNAME beside other types, or the reverse, is dropped silently (RFC 2136 3.4.2.2).
        """
        update = self._update()
        update.add(_name(name), ttl, *_rdatas(rdtype, rdatas))
        self._send(update)

    def set(self, name: str, rdtype: str, *rdatas: str, ttl: int = 1) -> None:
        """Replace all records of that name and type with these, in one step."""
        update = self._update()
        update.replace(_name(name), ttl, *_rdatas(rdtype, rdatas))
        self._send(update)

    def remove(self, name: str, rdtype: str | None = None, *rdatas: str) -> None:
        """Remove these records, or all of that type, or all of that name; missing records are ignored."""
        update = self._update()
        if rdatas:
            update.delete(_name(name), *_rdatas(str(rdtype), rdatas))
        elif rdtype is not None:
            update.delete(_name(name), rdtype)
        else:
            update.delete(_name(name))
        self._send(update)

    def start(self) -> None:
        """Serve on the same port again, with the same records; returns when it answers."""
        self._child.start()
        self._child.wait_until(self._answers, timeout=_SECONDS)

    def stop(self) -> None:
        """Stop it by SIGTERM: the kernel then refuses queries. Idempotent."""
        if self._child.running:
            self._child.terminate()

    def kill(self) -> None:
        """Kill it by SIGKILL; the journal keeps the updates. Idempotent."""
        self._child.kill()

    def pause(self) -> None:
        """Leave queries unanswered, by SIGSTOP."""
        self._child.pause()

    def resume(self) -> None:
        """Resume, by SIGCONT; queries queued in the socket are answered."""
        self._child.resume()

    def close(self) -> None:
        """Kill it and free the port. Idempotent."""
        self._child.kill()
        self._reservation.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _answers(self) -> bool:
        query = dns.message.make_query(self.zone, "SOA")
        try:
            for exchange in (dns.query.tcp, dns.query.udp):  # TCP reports a closed port at once
                response = exchange(query, self.host, port=self.port, timeout=0.5)
                if not response.answer or not response.answer[0][0].mname.to_text().startswith(self._nonce):
                    return False
        except (OSError, dns.exception.DNSException):
            return False
        return True

    def _update(self) -> dns.update.UpdateMessage:
        return dns.update.UpdateMessage(self.zone, keyring=self._keyring, keyalgorithm=dns.tsig.HMAC_SHA256)

    def _send(self, update: dns.update.UpdateMessage) -> None:
        response = dns.query.tcp(update, self.host, port=self.port, timeout=_SECONDS)
        if response.rcode() != dns.rcode.NOERROR:
            raise RuntimeError(f"BIND answered {dns.rcode.to_text(response.rcode())} to:\n{update}")


def _name(name: str) -> dns.name.Name:
    return dns.name.from_text(name, dns.name.root)


def _rdatas(rdtype: str, rdatas: tuple[str, ...]) -> list[dns.rdata.Rdata]:
    return [dns.rdata.from_text("IN", rdtype, rdata, origin=dns.name.root, relativize=False) for rdata in rdatas]
