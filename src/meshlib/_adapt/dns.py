"""DNS messages as core values, without waiting.

Only dnspython's messages and parsers are used. Its resolver is not: it uses the wall clock, and reports neither which
server answered what nor whether a name does not exist or no server answered.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final, Literal

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.IN.SRV
import dns.rrset

from meshlib._core.discovery.srv import SrvRecord

__all__ = ["Answer", "RecordType", "answer", "question"]

RecordType = Literal["A", "AAAA", "SRV"]

PAYLOAD: Final = 1232
"""Bytes of a UDP answer that cross every network unfragmented (DNS flag day 2020); 20 SRV records do not fit into the
512 bytes that a query without EDNS allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a name server.

    Args:
        code: ``"NOERROR"``, ``"NXDOMAIN"``, ``"SERVFAIL"`` ...
        addresses: of an A or AAAA query.
        records: of an SRV query.
        ttl: seconds, the least over the records used, aliases included; without records, that of the SOA (RFC 2308),
            0 if there is none.
        alias: the name to query next, if the answer ends with a CNAME that the server did not follow.
    """

    code: str
    addresses: tuple[str, ...] = ()
    records: tuple[SrvRecord, ...] = ()
    ttl: float = 0.0
    alias: str | None = None

    @property
    def certain(self) -> bool:
        """Whether the server's answer is definite: it has records, or says that there are none."""
        return self.code in ("NOERROR", "NXDOMAIN")

    @property
    def found(self) -> int:
        """The number of records."""
        return len(self.addresses) + len(self.records)


def question(name: str, rdtype: RecordType, *, edns: bool = True) -> dns.message.QueryMessage:
    """Return a recursive query for the absolute ``name``.

    Args:
        name: ends with a dot.
        rdtype: the record type.
        edns: whether the query carries EDNS (RFC 6891). Some name servers refuse or drop such queries.
    """
    asked = dns.name.from_text(name, dns.name.root)
    if not edns:
        return dns.message.make_query(asked, rdtype)
    return dns.message.make_query(asked, rdtype, use_edns=0, payload=PAYLOAD)


def answer(response: dns.message.Message) -> Answer:
    """Convert ``response``. The additional section is ignored: servers send some of the addresses or none.

    Raises:
        dns.exception.DNSException: it is invalid, a loop of aliases for instance.
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
