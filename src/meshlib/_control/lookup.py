"""Asking DNS: one question to several servers, one name under several domains, each with a deadline.

Every result, good or bad, comes with the steps that led to it. The difference between "there is no such name" and
"nobody could tell" is kept to the end, because they are acted upon differently. Sockets live exactly as long as the
question, also if it is cancelled; nothing is cached, because the answer's TTL decides when to ask again.
"""

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

import dns.asyncbackend
import dns.asyncquery
import dns.exception

from meshlib._adapt.dns import Answer, RecordType, answer, question
from meshlib._control.system import SystemFiles
from meshlib._core.address import HostPort, canonical_ip, parse_host_port
from meshlib._core.discovery.names import LOOPBACK, candidates, is_localhost, of_family
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.srv import SrvRecord
from meshlib._core.discovery.steps import ResolveError, Step

__all__ = ["Addresses", "Inquiry", "Lookup", "Services"]

SOCKETS = 64
"""Questions under way at once: a target that lists a thousand names must not use up the process's file descriptors."""

LATE = 30.0
"""Seconds for which a name server that was of no use stands behind the others. Not for ever: the first of a list may be
the only one that knows the names of this network."""

ALIASES = 8
"""CNAMEs that are followed where a server leaves that to the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """What a host name stands for.

    Args:
        ips: at least one.
        ttl: seconds; None for what never changes.
        local: whether no name server was asked.
        steps: what was tried.
    """

    ips: tuple[str, ...]
    ttl: float | None
    local: bool = False
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The SRV records of a name; at least one, which may be the one that says "not here"."""

    records: tuple[SrvRecord, ...]
    ttl: float
    steps: tuple[Step, ...]


@final
class Lookup:
    """Name servers and how to ask them, for one event loop.

    Args:
        policy: the knobs.
        files: the machine's configuration.
        nameservers: whom to ask; empty: those of ``policy``, and if there are none those of the machine.
    """

    def __init__(self, policy: DnsPolicy, files: SystemFiles, nameservers: Iterable[str] = ()) -> None:
        self.policy = policy
        self.files = files
        self._named = tuple(parse_host_port(server) for server in tuple(nameservers) or policy.nameservers)
        self._late: dict[HostPort, float] = {}
        self.sockets = asyncio.Semaphore(SOCKETS)

    def inquire(self) -> "Inquiry":
        """The questions of one resolution, which share a deadline that begins now."""
        return Inquiry(self, asyncio.get_running_loop().time() + self.policy.timeout)

    async def servers(self) -> tuple[HostPort, ...]:
        """Whom to ask, those that were of no use when they were last asked at the end.

        Raises:
            ResolveError: a name server is given by a name that cannot be resolved.
        """
        servers: list[HostPort] = []
        for server in self._named or self.files.dns().nameservers:
            servers += [server] if server.is_ip else await self._named_server(server)
        now = asyncio.get_running_loop().time()
        return tuple(sorted(servers, key=lambda server: self._late.get(server, now) > now))

    def note(self, server: HostPort, *, useful: bool) -> None:
        """A server of no use is asked after the others for a while, so that a dead one is not waited for each time."""
        if useful:
            self._late.pop(server, None)
        else:
            self._late[server] = asyncio.get_running_loop().time() + LATE

    async def _named_server(self, server: HostPort) -> list[HostPort]:
        """Name servers of a compose file, ``consul:8600``, are found as this machine finds names."""
        system = Lookup(replace(self.policy, nameservers=()), self.files)
        try:
            found = await system.inquire().addresses(server.host)
        except ResolveError as error:
            raise ResolveError(f"name server {str(server)!r} has no address: {error.reason}", error.steps) from error
        return [HostPort(host=ip, port=server.port) for ip in found.ips]


@final
class Inquiry:
    """The questions of one resolution."""

    def __init__(self, lookup: Lookup, deadline: float) -> None:
        self._lookup = lookup
        self._deadline = deadline
        self._silence = f"no answer within {lookup.policy.query_timeout:g} s"

    async def addresses(self, host: str) -> Addresses:
        """The addresses of a host: a literal itself, else from the hosts file, else from DNS with search domains.

        Raises:
            ResolveError: there are none, or no server could tell.
        """
        ip = canonical_ip(host)
        if ip is not None:
            return Addresses(ips=(ip,), ttl=None, local=True)
        policy, files = self._lookup.policy, self._lookup.files
        listed = files.hosts().get(host.lower().removesuffix("."), LOOPBACK if is_localhost(host) else ())
        ips = of_family(listed, policy.family)
        if ips:
            step = Step(question=host, source=files.hosts_path, answer=_counted(len(ips), "address", "addresses"))
            return Addresses(ips=ips, ttl=policy.max_ttl, local=True, steps=(step,))
        steps: list[Step] = []
        ttls = []
        for name in self._candidates(host):
            found = await self._host(name, steps)
            if found.addresses:
                return Addresses(ips=found.addresses, ttl=found.ttl, steps=tuple(steps))
            ttls.append(found.ttl)
        raise ResolveError(f"DNS knows no address of {host!r}", steps, absent=True, ttl=min(ttls, default=0.0))

    async def services(self, service: str, host: str) -> Services:
        """The SRV records ``service.host``, search domains applied to the host.

        Raises:
            ResolveError: there are none, or no server could tell.
        """
        steps: list[Step] = []
        ttls = []
        for name in () if is_localhost(host) else self._candidates(host):
            found = await self._ask(f"{service}.{name}" if service else name, "SRV", steps)
            if found.records:
                return Services(records=found.records, ttl=found.ttl, steps=tuple(steps))
            ttls.append(found.ttl)
        raise ResolveError(f"DNS knows no SRV record of {host!r}", steps, absent=True, ttl=min(ttls, default=0.0))

    def _candidates(self, host: str) -> tuple[str, ...]:
        config = self._lookup.files.dns()
        return candidates(host, config.search, config.ndots)

    async def _host(self, name: str, steps: list[Step]) -> Answer:
        """The A and AAAA records of an absolute name, as the family wants them. Most hosts are asked for once."""
        family = self._lookup.policy.family
        if family in ("v4", "v6"):
            return await self._ask(name, "A" if family == "v4" else "AAAA", steps)
        first = await self._ask(name, "A", steps)
        if first.code == "NXDOMAIN" or (first.addresses and family == "auto"):
            return first
        second = await self._ask(name, "AAAA", steps)
        ttl = min((each.ttl for each in (first, second) if each.addresses), default=min(first.ttl, second.ttl))
        return Answer(code=first.code, addresses=first.addresses + second.addresses, ttl=ttl)

    async def _ask(self, name: str, rdtype: RecordType, steps: list[Step]) -> Answer:
        """The certain answer to one question, aliases followed."""
        ttl = float("inf")
        for _ in range(ALIASES):
            found = await self._ask_servers(name, rdtype, steps)
            ttl = min(ttl, found.ttl)
            if found.alias is None:
                return replace(found, ttl=ttl)
            name = found.alias
        raise ResolveError(f"{name} is one alias too many", steps)

    async def _ask_servers(self, name: str, rdtype: RecordType, steps: list[Step]) -> Answer:
        """The first certain answer. A server that is silent is asked again in the next round, one that answers anything
        else is not asked again."""
        lookup, loop = self._lookup, asyncio.get_running_loop()
        left = list(await lookup.servers())
        while left and loop.time() < self._deadline:
            server = left.pop(0)
            found, said = await self._ask_server(server, name, rdtype)
            ttl = found.ttl if found and found.found else None
            steps.append(Step(question=f"{rdtype} {name}", source=str(server), answer=said, ttl=ttl))
            lookup.note(server, useful=found is not None and found.certain)
            if found is None and said == self._silence:
                left.append(server)
            elif found is not None and found.certain:
                return found
        raise ResolveError(f"no name server could tell {rdtype} {name}", steps)

    async def _ask_server(self, server: HostPort, name: str, rdtype: RecordType) -> tuple[Answer | None, str]:
        """What the server answers, if it does, and how a step tells it."""
        try:
            async with (
                asyncio.timeout_at(self._deadline),
                self._lookup.sockets,
                asyncio.timeout(self._lookup.policy.query_timeout),
            ):
                found = await _exchange(server, name, rdtype)
        except TimeoutError:
            return None, self._silence
        except (OSError, EOFError, dns.exception.DNSException) as error:
            return None, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if found.code == "NOERROR" and not found.found:
            return found, f"an alias for {found.alias}" if found.alias else f"no {rdtype} record"
        return found, _counted(found.found, "record", "records") if found.found else found.code


async def _exchange(server: HostPort, name: str, rdtype: RecordType) -> Answer:
    """One question to one server, over UDP and, if the answer is truncated, over TCP.

    A connected socket, so that the kernel drops what others send and a closed port is known at once; packets that do
    not match the question are not taken for its answer.
    """
    backend = dns.asyncbackend.get_backend("asyncio")
    query = question(name, rdtype)
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    where = (server.host, server.port)
    opened = backend.make_socket(family, socket.SOCK_DGRAM, destination=where)  # type: ignore[no-untyped-call]
    async with await opened as udp:
        response, _ = await dns.asyncquery.udp_with_fallback(
            query,
            server.host,
            port=server.port or 53,
            udp_sock=udp,
            backend=backend,
            ignore_unexpected=True,
            ignore_errors=True,
        )
    return answer(response)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
