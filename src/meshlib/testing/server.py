"""Real gRPC servers for tests: they fail on request, count their calls, and restart on the same port.

with servers(3) as (a, b, c):
    a.fault(code="UNAVAILABLE", times=2)
    ...
    assert b.calls[echo.UNARY] == 10
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from meshlib.testing.addresses import reserve, reserve_one_port
from meshlib.testing.echo import add_echo_to_server
from meshlib.testing.journal import Journal
from meshlib.testing.services import Services
from meshlib.testing.traffic import CallFault, Metadata, Received, Traffic

_STOP_SECONDS = 10.0
"""Time limit for cancelled handlers to end."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS certificates of a server: PEM, as bytes."""

    private_key: bytes = field(repr=False)
    certificate_chain: bytes
    client_ca: bytes | None = None
    """If set, clients must present a certificate signed by it."""

    def credentials(self) -> grpc.ServerCredentials:
        """Create the server credentials for grpc."""
        return grpc.ssl_server_credentials(
            [(self.private_key, self.certificate_chain)],
            root_certificates=self.client_ca,
            require_client_auth=self.client_ca is not None,
        )


class Server:
    """Real grpc server in this process, with the echo service (``meshlib.testing.echo``) and your own services.

    It serves from its construction to ``stop`` and again after ``start``, and keeps its port until ``close``.

    Args:
        address: ``IP:port``, ``[IPv6]:port`` or ``unix:path``; port 0 is any free one. All of 127.0.0.0/8 works.
        name: Initial metadata ``meshlib-server`` of its responses; default: the address.
        add: Registers more services: ``lambda server: add_GreeterServicer_to_server(Greeter(), server)``.
        tls: TLS certificates; default: plaintext.
        options: grpc channel arguments of the server.
        workers: Maximum concurrent handlers; more calls wait. A hanging call occupies one.
        journal: File to which the start and end of each handler's request are appended.

    Raises:
        ValueError: The address is malformed.
        OSError: The address is taken or not of this machine.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        name: str | None = None,
        add: Callable[[grpc.Server], object] | None = None,
        tls: ServerTls | None = None,
        options: Sequence[tuple[str, Any]] = (),
        workers: int = 64,
        journal: Path | None = None,
    ) -> None:
        self._server: grpc.Server | None = None
        self._handlers: ThreadPoolExecutor | None = None
        self._add = add
        self._tls = tls
        self._options = options
        self._workers = workers
        self._reservation = reserve(address)
        self._journal = Journal(journal) if journal else None
        self.address = self._reservation.address
        """Address such as ``127.0.0.1:41234``, the same after a restart."""
        self.port = self._reservation.port
        self.name = name or self.address
        self._traffic = Traffic(self.name, self._journal.record if self._journal else _forget)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start serving on the same address; does nothing if it is serving. Counters and faults are kept."""
        if self._server is not None:
            return
        self._handlers = ThreadPoolExecutor(self._workers, thread_name_prefix=self.name)
        server = grpc.server(self._handlers, interceptors=[self._traffic], options=tuple(self._options))
        self._services = Services(server)
        add_echo_to_server(server)
        if self._add is not None:
            self._add(server)
        if self._tls is None:
            server.add_insecure_port(self.address)
        else:
            server.add_secure_port(self.address, self._tls.credentials())
        server.start()
        self._server = server

    def stop(self, grace: float = 0.0) -> None:
        """Reject new calls, give running ones ``grace`` seconds, cancel the rest; returns when all have ended.

        Without grace it looks like a crash to clients: running calls end as UNAVAILABLE, connections are refused.

        Raises:
            TimeoutError: A handler still runs, 10 s after its call was cancelled.
        """
        server, self._server = self._server, None
        handlers, self._handlers = self._handlers, None
        if server is None or handlers is None:
            return
        if not server.stop(grace or None).wait(grace + _STOP_SECONDS):
            raise TimeoutError(f"grpc did not stop {self!r} within {grace + _STOP_SECONDS} s")
        self.wait_until(lambda server: server.in_flight == 0, _STOP_SECONDS)
        handlers.shutdown()

    def close(self) -> None:
        """Stop without grace and release the port; idempotent."""
        self.stop()
        self._reservation.release()
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    @property
    def serving(self) -> bool:
        """Whether it accepts calls."""
        return self._server is not None

    @property
    def calls(self) -> Counter[str]:
        """Number of calls received by method, as in ``server.calls["/pkg.Service/Method"]``; no unknown methods."""
        with self._traffic.changed:
            return self._traffic.calls.copy()

    @property
    def received(self) -> list[Received]:
        """Calls received, with their metadata; at most the last 10,000."""
        with self._traffic.changed:
            return list(self._traffic.received)

    @property
    def executions(self) -> Counter[str]:
        """Number of handler starts by request, identified by the request metadata ``meshlib-request-id``."""
        with self._traffic.changed:
            return self._traffic.executions.copy()

    @property
    def in_flight(self) -> int:
        """Number of calls received and not ended, in a handler or with a response not yet written."""
        return self._traffic.in_flight

    @property
    def unfinished(self) -> frozenset[str]:
        """Request ids whose handlers have begun and whose calls have not ended; a kill would lose them."""
        return self._traffic.unfinished

    def wait_until(self, condition: Callable[["Server"], bool], timeout: float = 5.0) -> None:
        """Wait until ``condition(self)`` is true: ``server.wait_until(lambda s: s.in_flight == 8)``.

        It is evaluated after every change of a counter.

        Raises:
            TimeoutError: It was not true within ``timeout`` seconds.
        """
        with self._traffic.changed:
            if not self._traffic.changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"condition not met within {timeout} s: {self!r}")

    def fault(
        self,
        *,
        code: str | grpc.StatusCode | None = None,
        details: str = "",
        trailing_metadata: Metadata = (),
        delay: float = 0.0,
        hang: bool = False,
        after: int = 0,
        initial_metadata: bool = False,
        method: str | None = None,
        times: int | None = None,
    ) -> None:
        """Inject a fault into calls, from the next one on.

        Faults with ``times`` are used up first, in the order given; those with a ``method`` precede the others.

        Args:
            code: End the call with this status. None: only delay it; ``fault(times=2)`` lets two calls pass.
            details: The status message.
            trailing_metadata: Sent with the status, such as ``(("grpc-retry-pushback-ms", "100"),)``.
            delay: Seconds to wait before that.
            hang: Never answer: until the client ends the call, the server stops or ``heal``.
            after: Fail after this many response messages, or at the end if there are fewer. At 0 with a code the
                handler does not run at all; at 1 a unary handler runs and its response is lost.
            initial_metadata: Send the response headers first, which commits a call that would be retried.
            method: Only calls of this method, ``/package.Service/Method``, which must exist on this server.
            times: Number of calls; None: until ``heal``.

        Raises:
            ValueError: The arguments contradict each other, or no call can match ``method``.
        """
        if method is not None:
            self._services.check(method)
        if hang and (code is not None or delay):
            raise ValueError(f"hang=True never ends a call: code={code!r} and delay={delay} contradict hang=True")
        if after < 0 or delay < 0:
            raise ValueError(f"after and delay cannot be negative: got after={after}, delay={delay}")
        fault = CallFault(
            code=_status_code(code),
            details=details,
            trailing_metadata=tuple(trailing_metadata),
            delay=delay,
            hang=hang,
            after=after,
            initial_metadata=initial_metadata,
        )
        with self._traffic.changed:
            self._traffic.script.add((method,), fault, times=times)

    def heal(self, method: str | None = None) -> None:
        """Remove the faults of ``method``, or all; calls that hang or are delayed continue."""
        self._traffic.heal(method)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "serving" if self.serving else "stopped"
        return f"<Server {self.name} {self.address} {state}, {self.calls.total()} calls, {self.in_flight} in flight>"


@contextmanager
def servers(
    n: int, *, name: str = "server", host: str = "127.0.0.1", one_port: bool = False, **options: Any
) -> Iterator[list[Server]]:
    """Start ``n`` servers named ``server-1`` ...; they are closed at the end of the ``with`` block.

    Args:
        n: Number of servers.
        name: Prefix of their names.
        host: IP address to listen on, each on its own port.
        one_port: Use one port on 127.0.0.11, 127.0.0.12 ... instead, like instances behind one host name.
        options: Arguments of ``Server``, except address and name.
    """
    with ExitStack() as stack:
        addresses = [f"{host}:0"] * n
        if one_port and n:
            reservations = reserve_one_port([f"127.0.0.{11 + index}" for index in range(n)])
            for reservation in reservations:
                stack.callback(reservation.release)
            addresses = [reservation.address for reservation in reservations]
        yield [
            stack.enter_context(Server(address, name=f"{name}-{index}", **options))
            for index, address in enumerate(addresses, start=1)
        ]


def _status_code(code: str | grpc.StatusCode | None) -> grpc.StatusCode | None:
    if isinstance(code, str):
        try:
            code = grpc.StatusCode[code]
        except KeyError:
            known = ", ".join(status.name for status in grpc.StatusCode)
            raise ValueError(f"code must be a status code of gRPC, got {code!r}; known: {known}") from None
    if code is grpc.StatusCode.OK:
        raise ValueError("code=OK is not a fault; omit code to let calls through")
    return code


def _forget(what: str, request_id: str) -> None:
    """Record nothing: there is no journal."""
