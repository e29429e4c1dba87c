"""DNS lookups: one query to several servers, one name under several domains, each with a deadline.

Every result, good or bad, lists the steps that led to it. "No such name" and "no server answered" stay distinct to the
end, because they are handled differently. Sockets live exactly as long as the query, even if it is cancelled. Nothing
is cached: the TTL of the answer decides when to query again.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, final

from meshlib._adapt.dns import Answer, RecordType
from meshlib._control.exchange import UNREACHABLE, UNREADABLE, exchange, possible
from meshlib._control.families import Families, Ipv6
from meshlib._control.system import SystemFiles
from meshlib._core.address import HostPort, canonical_ip, parse_host_port
from meshlib._core.discovery.families import RETRY, grouped
from meshlib._core.discovery.names import candidates, is_localhost, listed, still_to_try
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.srv import SrvRecord
from meshlib._core.discovery.steps import ResolveError, Step

__all__ = ["Addresses", "Inquiry", "Lookup", "ServiceRecords"]

SOCKETS: Final = 64
"""Queries in flight at once: a target that lists a thousand names must not exhaust file descriptors."""

LATE: Final = 30.0
"""Seconds for which a name server that did not answer is queried after the others. Not for ever: the first of a list
may be the only one with the names of this network."""

PLAIN: Final = 300.0
"""Seconds for which a name server that refused EDNS is queried without it (RFC 6891 section 6.2.2)."""

ALIASES: Final = 8
"""Maximum number of CNAMEs followed if a server leaves that to the client."""

_NO_EDNS: Final = frozenset({"FORMERR", "NOTIMP", "BADVERS"})
"""Codes that refuse EDNS, of servers without it or with another version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The addresses of a host name.

    Args:
        ips: at least one.
        ttl: seconds; None if they never change.
        local: whether no name server was queried.
        paired: whether they are the IPv4 and the IPv6 address of one host.
        steps: the queries made.
    """

    ips: tuple[str, ...]
    ttl: float | None
    local: bool = False
    paired: bool = False
    steps: tuple[Step, ...] = ()

    @property
    def hosts(self) -> tuple[tuple[str, ...], ...]:
        """The addresses by host: the endpoint's own first, then its alternatives."""
        return (self.ips,) if self.paired else tuple((ip,) for ip in self.ips)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecords:
    """The SRV records of a name; at least one, which may mean "not here"."""

    records: tuple[SrvRecord, ...]
    ttl: float
    steps: tuple[Step, ...]


@final
class Lookup:
    """Name servers and their state, for one event loop.

    Args:
        policy: DNS configuration.
        files: the machine's configuration.
        nameservers: the servers to query; empty: those of ``policy``, else those of the machine.
    """

    def __init__(self, policy: DnsPolicy, files: SystemFiles, nameservers: Iterable[str] = ()) -> None:
        self.policy = policy
        self.files = files
        self._named = tuple(parse_host_port(server) for server in tuple(nameservers) or policy.nameservers)
        self._late: dict[HostPort, float] = {}
        self._plain: dict[HostPort, float] = {}
        self.ipv6 = Ipv6()
        self.sockets = asyncio.Semaphore(SOCKETS)

    def inquire(self) -> "Inquiry":
        """Start one resolution, whose queries share a deadline that begins now."""
        return Inquiry(self, asyncio.get_running_loop().time() + self.policy.timeout)

    async def servers(self) -> tuple[HostPort, ...]:
        """Return the servers to query; those that did not answer last time come last.

        Raises:
            ResolveError: a name server is given by a name that cannot be resolved.
        """
        servers: list[HostPort] = []
        for server in self._named or self.files.dns().nameservers:
            servers += [server] if server.is_ip else await self._named_server(server)
        now = asyncio.get_running_loop().time()
        return tuple(sorted(servers, key=lambda server: self._late.get(server, now) > now))

    def note(self, server: HostPort, *, useful: bool) -> None:
        """Record whether ``server`` answered. One that did not is queried last for a while, to save its timeout."""
        if useful:
            self._late.pop(server, None)
        else:
            self._late[server] = asyncio.get_running_loop().time() + LATE

    def takes_edns(self, server: HostPort) -> bool:
        """Whether ``server`` is queried with EDNS."""
        return self._plain.get(server, 0.0) <= asyncio.get_running_loop().time()

    def note_plain(self, server: HostPort, *, refused: bool) -> None:
        """Record that ``server`` answered without EDNS, after it refused it or did not answer."""
        until = asyncio.get_running_loop().time() + (PLAIN if refused else LATE)
        self._plain[server] = max(until, self._plain.get(server, 0.0))

    async def _named_server(self, server: HostPort) -> list[HostPort]:
        """Resolve the name of a name server, such as ``consul:8600`` in a compose file, as this machine does."""
        system = Lookup(replace(self.policy, nameservers=()), self.files)
        try:
            found = await system.inquire().addresses(server.host)
        except ResolveError as error:
            raise ResolveError(f"name server {str(server)!r} has no address: {error.reason}", error.steps) from error
        return [HostPort(host=ip, port=server.port) for ip in found.ips]


@final
class Inquiry:
    """The queries of one resolution."""

    def __init__(self, lookup: Lookup, deadline: float) -> None:
        self._lookup = lookup
        self._deadline = deadline
        self._silence = f"no answer within {lookup.policy.query_timeout:g} s"

    async def addresses(
        self, host: str, *, absolute: bool = False, pair: bool = False, known: tuple[str, ...] = ()
    ) -> Addresses:
        """Return the addresses of a host: a literal itself, else the hosts file's, else DNS with search domains.

        Args:
            host: a name or an address.
            absolute: the name is complete even without a final dot.
            pair: whether one A and one AAAA record make one host with two addresses.
            known: the last good addresses; those of a family without an answer are kept.

        Raises:
            ResolveError: there are none, or no server answered.
        """
        ip = canonical_ip(host)
        if ip is not None:
            return Addresses(ips=(ip,), ttl=None, local=True)
        policy, files = self._lookup.policy, self._lookup.files
        here = listed(files.hosts(), host)
        ips, paired = grouped(here, policy.family, pair=pair)
        if ips:
            step = Step(question=host, source=files.hosts_path, answer=_counted(len(ips), "address", "addresses"))
            return Addresses(ips=ips, ttl=policy.max_ttl, local=True, paired=paired, steps=(step,))
        steps: list[Step] = []
        ttls = []
        failure: ResolveError | None = None
        names = self._candidates(host, absolute=absolute)
        while names:
            try:
                found = await self._host(names[0], steps, pair=pair, known=known)
            except ResolveError as error:
                failure = failure or error
                names = still_to_try(host, names[1:])
                continue
            ips, paired = grouped(found.addresses, policy.family, pair=pair)
            if ips:
                ttl = found.ttl if failure is None else min(found.ttl, RETRY)
                return Addresses(ips=ips, ttl=ttl, paired=paired, steps=tuple(steps))
            ttls.append(found.ttl)
            names = names[1:]
        if failure is not None:
            raise ResolveError(failure.reason, steps)
        raise ResolveError(f"DNS has no address for {host!r}", steps, absent=True, ttl=min(ttls, default=0.0))

    async def services(self, service: str, host: str) -> ServiceRecords:
        """Return the SRV records ``service.host``, search domains applied to the host.

        Raises:
            ResolveError: there are none, or no server answered.
        """
        steps: list[Step] = []
        ttls = []
        failure: ResolveError | None = None
        names = () if is_localhost(host) else self._candidates(host)
        while names:
            try:
                found = await self._ask(f"{service}.{names[0]}" if service else names[0], "SRV", steps)
            except ResolveError as error:
                failure = failure or error
                names = still_to_try(host, names[1:])
                continue
            if found.records:
                ttl = found.ttl if failure is None else min(found.ttl, RETRY)
                return ServiceRecords(records=found.records, ttl=ttl, steps=tuple(steps))
            ttls.append(found.ttl)
            names = names[1:]
        if failure is not None:
            raise ResolveError(failure.reason, steps)
        raise ResolveError(f"DNS has no SRV record for {host!r}", steps, absent=True, ttl=min(ttls, default=0.0))

    def _candidates(self, host: str, *, absolute: bool = False) -> tuple[str, ...]:
        if absolute and not host.endswith("."):
            host += "."
        config = self._lookup.files.dns()
        return candidates(host, config.search, config.ndots)

    async def _host(self, name: str, steps: list[Step], *, pair: bool, known: tuple[str, ...]) -> Answer:
        """Return the A and AAAA records of an absolute name, as far as the family needs them.

        If no server answers for one family, the other is used, and the last good addresses of the first stay.
        """
        policy = self._lookup.policy
        if policy.family in ("v4", "v6"):
            return await self._ask(name, "A" if policy.family == "v4" else "AAAA", steps)
        families = Families(self._ask, policy, self._lookup.ipv6, pair=pair, known=known)
        return await families.ask(name, steps)

    async def _ask(self, name: str, rdtype: RecordType, steps: list[Step]) -> Answer:
        """Return the definite answer to one query, after following aliases."""
        ttl = float("inf")
        for _ in range(ALIASES):
            if not possible(name):
                steps.append(Step(question=f"{rdtype} {name}", source="this machine", answer="not a valid DNS name"))
                return Answer(code="NXDOMAIN")
            found = await self._ask_servers(name, rdtype, steps)
            ttl = min(ttl, found.ttl)
            if found.alias is None:
                return replace(found, ttl=ttl)
            name = found.alias
        raise ResolveError(f"too many CNAMEs in a row, the last to {name}", steps)

    async def _ask_servers(self, name: str, rdtype: RecordType, steps: list[Step]) -> Answer:
        """Return the first definite answer.

        A server that does not answer is queried again in the next round, one that refuses EDNS at once, both without
        it. One that answers anything else is not queried again.
        """
        lookup, loop = self._lookup, asyncio.get_running_loop()
        left = list(await lookup.servers())
        plain: dict[HostPort, bool] = {}
        while left and loop.time() < self._deadline:
            server = left.pop(0)
            edns = server not in plain and lookup.takes_edns(server)
            found, said = await self._ask_server(server, name, rdtype, edns=edns)
            ttl = found.ttl if found and found.found else None
            steps.append(Step(question=f"{rdtype} {name}", source=str(server), answer=said, ttl=ttl))
            if found is not None and edns and found.code in _NO_EDNS:
                plain[server] = True
                left.insert(0, server)
                continue
            # A server that answers SERVFAIL for one name may be the only one with the others.
            lookup.note(server, useful=found is not None)
            if found is None and said == self._silence:
                plain.setdefault(server, False)
                left.append(server)
            elif found is not None and found.certain:
                if server in plain:
                    lookup.note_plain(server, refused=plain[server])
                return found
        raise ResolveError(f"no name server answered the {rdtype} query for {name}", steps)

    async def _ask_server(
        self, server: HostPort, name: str, rdtype: RecordType, *, edns: bool
    ) -> tuple[Answer | None, str]:
        """Return the server's answer, if any, and its text for a step."""
        tcp = self._lookup.files.dns().tcp
        try:
            async with (
                asyncio.timeout_at(self._deadline),
                self._lookup.sockets,
                asyncio.timeout(self._lookup.policy.query_timeout),
            ):
                found = await exchange(server, name, rdtype, edns=edns, tcp=tcp)
        except TimeoutError:
            return None, self._silence
        except UNREACHABLE as error:
            return None, _told(error)
        except UNREADABLE as error:
            return Answer(code="unreadable"), _told(error)
        if found.code == "NOERROR" and not found.found:
            return found, f"an alias for {found.alias}" if found.alias else f"no {rdtype} record"
        return found, _counted(found.found, "record", "records") if found.found else found.code


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
