"""DNS messages and configuration as core values: the translation, and nothing that waits.

Only what a stub needs of dnspython is used: its messages, its parsers, and its reading of /etc/resolv.conf. Its
resolver is not, because that one keeps time by the wall clock, and tells neither which server said what nor whether a
name does not exist or nobody knows.
"""

import ipaddress
import os
from dataclasses import dataclass
from typing import Final, Literal

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.IN.SRV
import dns.resolver
import dns.rrset

from meshlib._core.address import HostPort
from meshlib._core.discovery.srv import SrvRecord

__all__ = ["Answer", "DnsConfig", "RecordType", "answer", "dns_config", "question"]

RecordType = Literal["A", "AAAA", "SRV"]

PAYLOAD: Final = 1232
"""Bytes of a UDP answer that cross every network in one piece (DNS flag day 2020); 20 SRV records do not fit into the
512 bytes that a question without EDNS allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """Whom to ask, and how to complete a relative name: resolv.conf(5).

    Args:
        nameservers: in the order in which they are asked.
        search: domains, without a final dot.
        ndots: a name with so many dots is tried as it stands before the search domains, any other after them.
    """

    nameservers: tuple[HostPort, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a name server said.

    Args:
        code: ``"NOERROR"``, ``"NXDOMAIN"``, ``"SERVFAIL"`` ...
        addresses: of an A or AAAA question.
        records: of an SRV question.
        ttl: seconds, the least over the records used, aliases included; without records, that of the SOA (RFC 2308),
            0 if there is none.
        alias: where the answer ends with a CNAME that the server did not follow: the name to ask for.
    """

    code: str
    addresses: tuple[str, ...] = ()
    records: tuple[SrvRecord, ...] = ()
    ttl: float = 0.0
    alias: str | None = None

    @property
    def certain(self) -> bool:
        """Whether the server knows what there is, or that there is nothing; any other code says that it does not."""
        return self.code in ("NOERROR", "NXDOMAIN")

    @property
    def found(self) -> int:
        """The number of records."""
        return len(self.addresses) + len(self.records)


def dns_config(path: str | os.PathLike[str]) -> DnsConfig:
    """The system's configuration. Without a file, or a name server in it: the one on this machine, as libc has it.

    Raises:
        ValueError: the file names a server that is no address.
    """
    system = dns.resolver.Resolver(configure=False)
    try:
        system.read_resolv_conf(os.fspath(path))
    except dns.resolver.NoResolverConfiguration:
        system.nameservers = ["127.0.0.1"]
    search = system.search or ([system.domain] if len(system.domain) > 1 else [])
    return DnsConfig(
        nameservers=tuple(HostPort(host=str(server), port=system.port) for server in system.nameservers),
        search=tuple(domain.to_text(omit_final_dot=True) for domain in search if len(domain) > 1),
        ndots=1 if system.ndots is None else system.ndots,
    )


def question(name: str, rdtype: RecordType) -> dns.message.QueryMessage:
    """A recursive question for the absolute ``name``, with EDNS."""
    return dns.message.make_query(dns.name.from_text(name, dns.name.root), rdtype, use_edns=0, payload=PAYLOAD)


def answer(response: dns.message.Message) -> Answer:
    """What ``response`` says. The additional section is not looked at: servers send some of the addresses or none.

    Raises:
        dns.exception.DNSException: it makes no sense, a loop of aliases for instance.
    """
    code = dns.rcode.to_text(response.rcode())
    if code not in ("NOERROR", "NXDOMAIN") or not isinstance(response, dns.message.QueryMessage):
        return Answer(code=code)
    chain = response.resolve_chaining()
    if chain.answer is None:
        negative = any(records.rdtype == dns.rdatatype.SOA for records in response.authority)
        unfollowed = chain.cnames and code == "NOERROR" and not negative
        if unfollowed:
            ttl = float(min(alias.ttl for alias in chain.cnames))
            return Answer(code=code, ttl=ttl, alias=chain.canonical_name.to_text())
        return Answer(code=code, ttl=float(chain.minimum_ttl) if negative else 0.0)
    ttl = float(chain.minimum_ttl)
    if chain.answer.rdtype == dns.rdatatype.SRV:
        return Answer(code=code, ttl=ttl, records=tuple(_srv(record) for record in chain.answer))
    return Answer(
        code=code,
        ttl=ttl,
        addresses=tuple(str(ipaddress.ip_address(record.to_text())) for record in chain.answer),
    )


def _srv(record: object) -> SrvRecord:
    assert isinstance(record, dns.rdtypes.IN.SRV.SRV)
    target = record.target.canonicalize().to_text(omit_final_dot=True)
    return SrvRecord(
        priority=record.priority,
        weight=record.weight,
        port=record.port,
        target="" if target == "." else target,
    )
