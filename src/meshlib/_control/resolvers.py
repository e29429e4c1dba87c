"""The resolvers of the built-in schemes, and the override by the environment.

They follow the contract of plug-in resolvers and add ``steps``, which show where an endpoint comes from, as in
``python -m meshlib resolve``.
"""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, final

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._control.lookup import Addresses, Inquiry, Lookup, ServiceRecords
from meshlib._control.plugins import TracedResolver
from meshlib._core.address import HostPort
from meshlib._core.discovery import environment, srv
from meshlib._core.discovery.families import RETRY
from meshlib._core.discovery.names import is_localhost
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.steps import ResolveError, Step
from meshlib._core.endpoint import Resolution, endpoint, merge_duplicates
from meshlib._core.target import Target

__all__ = ["DnsResolver", "HostNames", "ListResolver", "Overridable", "SrvResolver"]

_log = DeferredLogger("meshlib")

Grouped = tuple[tuple[str, ...], ...]
"""The addresses of a name by host: the endpoint's own first, then its alternatives."""


class Found(NamedTuple):
    """Result of resolving several hosts: their common TTL, None if they never change, and the queries made."""

    ttl: float | None
    steps: tuple[Step, ...]


@final
class HostNames:
    """Several host names, each looked up once. A failed one keeps its last good addresses, without delaying others.

    Args:
        name: of the target, for log lines.
        policy: DNS configuration.
        absolute: the names are complete, as in DNS records.
    """

    def __init__(self, name: str, policy: DnsPolicy, *, absolute: bool = False) -> None:
        self._name = name
        self._policy = policy
        self._absolute = absolute
        self._good: dict[str, Addresses] = {}
        self._told: set[str] = set()

    async def addresses(self, inquiry: Inquiry, hosts: Iterable[str]) -> tuple[dict[str, Grouped], Found]:
        """Return IP addresses by host, without hosts that have none, and the TTL and steps of all.

        Raises:
            ResolveError: no host could be resolved now.
        """
        hosts = tuple(dict.fromkeys(hosts))
        found = await asyncio.gather(*(self._one(inquiry, host) for host in hosts), return_exceptions=True)
        good: dict[str, Addresses] = {}
        steps: list[Step] = []
        ttls: list[float] = []
        failures: dict[str, ResolveError] = {}
        for host, each in zip(hosts, found, strict=True):
            if isinstance(each, Addresses):
                good[host] = each
                ttls += [] if each.ttl is None else [each.ttl]
            elif isinstance(each, ResolveError):
                failures[host] = each
            else:
                raise each
            steps += each.steps
        if not good:
            raise _worst(tuple(failures.values()), steps)
        for host, error in failures.items():
            if host in self._good and not (error.absent and self._policy.allow_empty):
                good[host] = self._good[host]
        self._tell(failures, good)
        self._good = good
        ttl = min([*ttls, RETRY] if failures else ttls, default=None)
        return {host: each.hosts for host, each in good.items()}, Found(ttl=ttl, steps=tuple(steps))

    def _one(self, inquiry: Inquiry, host: str) -> Coroutine[Any, Any, Addresses]:
        known = self._good.get(host)
        return inquiry.addresses(host, absolute=self._absolute, pair=True, known=() if known is None else known.ips)

    def _tell(self, failures: Mapping[str, ResolveError], good: Mapping[str, object]) -> None:
        for host in failures.keys() - self._told:
            kept = "last good addresses kept" if host in good else "host left out"
            _log.warning("%s: host %s failed to resolve, %s: reason=%s", self._name, host, kept, failures[host])
        self._told = set(failures)


@final
class DnsResolver:
    """Resolver of a bare or ``dns:`` name: SRV records if requested, else addresses with one port."""

    outdated = False

    def __init__(self, target: Target, lookup: Lookup) -> None:
        self.steps: tuple[Step, ...] = ()
        self._target = target
        self._lookup = lookup
        self._srv = SrvResolver(target, lookup) if target.service else None
        self._good: tuple[str, ...] = ()
        self._served = False
        """Whether the last good answer was SRV records."""
        self._warned = False

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the current endpoints."""
        before: tuple[Step, ...] = ()
        inquiry = self._lookup.inquire()
        if self._srv is not None:
            services = await self._services(inquiry)
            if services is not None:
                return services
            before = self._srv.steps
        try:
            host = self._target.host
            found = await inquiry.addresses(host, pair=is_localhost(host), known=self._good)
        except ResolveError as error:
            self.steps = (*before, *error.steps)
            raise ResolveError(error.reason, self.steps, absent=error.absent, ttl=error.ttl) from None
        self.steps = (*before, *found.steps)
        self._good, self._served = found.ips, False
        self._warn(found)
        port = self._target.port or self._target.default_port
        return Resolution(endpoints=merge_duplicates(endpoint(ips, port) for ips in found.hosts), ttl=found.ttl)

    async def _services(self, inquiry: Inquiry) -> Resolution | None:
        """Return the endpoints of the SRV records; None if there are none, so that addresses are used.

        Only a definite answer gives None: otherwise one lost packet would send all traffic to other hosts of that name.
        The exception is a name in the hosts file, whose addresses need no name server.
        """
        assert self._srv is not None
        host = self._target.host
        # Endpoints from SRV records stay while no server answers; the hosts file would send calls elsewhere.
        listed = not self._served and bool(self._lookup.files.hosts().get(host.lower().removesuffix(".")))
        try:
            found = await self._srv.resolve_within(inquiry, briefly=listed)
        except ResolveError as error:
            if self._srv.listed:
                raise
            if error.absent or listed:
                return None
            hint = f"add a port to skip the SRV query, as in {host}:50051"
            raise ResolveError(f"{error.reason}; {hint}", error.steps) from None
        finally:
            self.steps = self._srv.steps
        self._served = True
        return found

    def _warn(self, found: Addresses) -> None:
        if not found.local and len(found.ips) == 1 and not self._warned:
            self._warned = True
            _log.warning(
                "%s: only one address, calls cannot be balanced: address=%s; a Kubernetes service must be headless "
                "(clusterIP: None) to list its pods",
                self._target,
                found.ips[0],
            )


@final
class SrvResolver:
    """Resolver of SRV records and the addresses of their targets."""

    outdated = False

    def __init__(self, target: Target, lookup: Lookup) -> None:
        self.steps: tuple[Step, ...] = ()
        self.listed = False
        """Whether the last query found records, even if their targets failed."""
        self._target = target
        self._lookup = lookup
        self._hosts = HostNames(str(target), lookup.policy, absolute=True)

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the current endpoints."""
        return await self.resolve_within(self._lookup.inquire())

    async def resolve_within(self, inquiry: Inquiry, *, briefly: bool = False) -> Resolution:
        """Return the current endpoints, by the deadline of ``inquiry``.

        Args:
            inquiry: sends the queries.
            briefly: wait for the records no longer than for one query.
        """
        self.listed = False
        self.steps = ()
        try:
            services = await self._services(inquiry, briefly=briefly)
            self.listed = True
            self.steps = services.steps
            targets = srv.targets(services.records)
            if not targets:
                raise ResolveError(
                    "the SRV record has the target '.': the service is not offered", absent=True, ttl=services.ttl
                )
            by_host, found = await self._hosts.addresses(inquiry, targets)
        except ResolveError as error:
            self.steps += error.steps
            raise ResolveError(error.reason, self.steps, absent=error.absent, ttl=error.ttl) from None
        self.steps += found.steps
        ttl = services.ttl if found.ttl is None else min(services.ttl, found.ttl)
        return Resolution(endpoints=srv.endpoints(services.records, by_host), ttl=ttl)

    async def _services(self, inquiry: Inquiry, *, briefly: bool) -> ServiceRecords:
        rdtype, host = "SRV", self._target.host
        try:
            async with asyncio.timeout(self._lookup.policy.query_timeout if briefly else None):
                return await inquiry.services(self._target.service, host)
        except TimeoutError:
            step = Step(question=f"{rdtype} {host}", source="the name servers", answer="no answer in time")
            raise ResolveError(f"no name server answered the {rdtype} query for {host}", (step,)) from None


@final
class ListResolver:
    """Resolver of the hosts that a target lists; each is its own authority."""

    outdated = False

    def __init__(self, target: Target, lookup: Lookup) -> None:
        self.steps: tuple[Step, ...] = ()
        self._target = target
        self._lookup = lookup
        self._hosts = HostNames(str(target), lookup.policy)

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the current endpoints."""
        return await self.endpoints(self._target.entries)

    async def endpoints(self, entries: Sequence[HostPort], *, own_authority: bool = True) -> Resolution:
        """Return the endpoints of ``entries``, each of which has a port."""
        self.steps = ()
        try:
            by_host, found = await self._hosts.addresses(self._lookup.inquire(), (entry.host for entry in entries))
        except ResolveError as error:
            self.steps = error.steps
            raise
        self.steps = found.steps
        return Resolution(
            endpoints=merge_duplicates(
                endpoint(ips, entry.port or 0, authority=str(entry) if own_authority else None)
                for entry in entries
                for ips in by_host.get(entry.host, ())
            ),
            ttl=found.ttl,
        )


@final
class Overridable:
    """A resolver whose host's endpoints the environment may override."""

    def __init__(self, target: Target, inner: TracedResolver, lookup: Lookup, environ: Mapping[str, str]) -> None:
        self.steps: tuple[Step, ...] = ()
        self._host = target.host
        self._inner = inner
        self._listed = ListResolver(target, lookup)
        self._environ = environ
        self._ttl = lookup.policy.max_ttl
        self._read: str | None = None
        self._asked = False

    @property
    def outdated(self) -> bool:
        """Whether the variable has changed since the last resolution."""
        return self._asked and self._read != self._value

    @property
    def _value(self) -> str | None:
        return self._environ.get(environment.variable(self._host))

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the current endpoints. The environment is read each time, so an override has a TTL."""
        self.steps = ()
        self._asked, self._read = True, self._value
        entries = environment.override(self._environ, self._host)
        chosen = self._listed if entries else self._inner
        try:
            if not entries:
                return await self._inner.resolve(previous)
            found = await self._listed.endpoints(entries, own_authority=False)
            return replace(found, ttl=self._ttl if found.ttl is None else found.ttl)
        finally:
            self.steps = chosen.steps
            if entries:
                name = environment.variable(self._host)
                told = ", ".join(map(str, entries))
                self.steps = (Step(question=name, source="the environment", answer=told), *self.steps)


def _worst(failures: Collection[ResolveError], steps: Iterable[Step]) -> ResolveError:
    """Combine several failures; absence is certain only if it is certain for each."""
    told = min(failures, key=lambda error: error.absent)
    reason = told.reason if len(failures) == 1 else f"none of {len(failures)} hosts has an address: {told.reason}"
    return ResolveError(reason, steps, absent=told.absent, ttl=min(error.ttl for error in failures))
