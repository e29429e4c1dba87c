"""Records and answers of the test name server, without sockets. RFC 1034, 2181, 2308, 6604."""

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rrset

_LONGEST_CHAIN = 16
"""Maximum CNAMEs in one answer; a loop ends there, and the answer is the chain so far."""


class Zone:
    """Zone of the whole DNS tree: a name that is not in it does not exist. Not thread-safe."""

    def __init__(self, negative_ttl: int) -> None:
        self._nodes: dict[dns.name.Name, dict[dns.rdatatype.RdataType, dns.rdataset.Rdataset]] = {}
        self._soa = dns.rrset.from_text(
            dns.name.root, negative_ttl, "IN", "SOA", f"ns. hostmaster. 1 3600 600 86400 {negative_ttl}"
        )

    def add(self, name: str, rdtype: str, rdatas: tuple[str, ...], ttl: int, *, replace: bool = False) -> None:
        """Add records to a set or replace it; the whole set gets the new TTL, as a set has only one (RFC 2181 5.2)."""
        added = _parse(name, rdtype, rdatas)
        node = self._nodes.get(absolute(name), {})
        others = node.keys() - {rdata_type(rdtype)}
        if others and dns.rdatatype.CNAME in (rdata_type(rdtype), *others):
            held = ", ".join(sorted(dns.rdatatype.to_text(other) for other in others))
            raise ValueError(
                f"{name} has {held}: a name with a CNAME has no other records (RFC 1034 3.6.2), so no {rdtype} here"
            )
        kept = () if replace else node.get(rdata_type(rdtype), ())
        records = dns.rdataset.from_rdata_list(ttl, [*kept, *added])
        self._nodes[absolute(name)] = {**node, records.rdtype: records}

    def remove(self, name: str, rdtype: str | None, rdatas: tuple[str, ...]) -> None:
        """Remove records, a set, or all sets of a name."""
        node = self._nodes.pop(absolute(name), {})
        if rdtype is None:
            return
        records = node.pop(rdata_type(rdtype), None)
        removed = _parse(name, rdtype, rdatas) if rdatas else records or ()
        if records is not None and (kept := [rdata for rdata in records if rdata not in removed]):
            node[records.rdtype] = dns.rdataset.from_rdata_list(records.ttl, kept)
        if node:
            self._nodes[absolute(name)] = node

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """Return the authoritative answer, following CNAMEs; its code is that of the last name (RFC 6604)."""
        response = reply(query)
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        name, rdtype = query.question[0].name, query.question[0].rdtype
        for _ in range(_LONGEST_CHAIN):
            node = self._nodes.get(name, {})
            records = node.get(rdtype) or node.get(dns.rdatatype.CNAME)
            if records is None:
                response.authority.append(self._soa)
                if not any(known.is_subdomain(name) for known in self._nodes):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                return response
            response.answer.append(dns.rrset.from_rdata_list(name, records.ttl, list(records)))
            target = records[0]
            if records.rdtype == rdtype or not isinstance(target, dns.rdtypes.ANY.CNAME.CNAME):
                return response
            name = target.target
        return response


def reply(query: dns.message.Message) -> dns.message.Message:
    """Create an answer without records, with the flags stubs expect: authoritative, recursion available."""
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= dns.flags.AA
    return response


def absolute(name: str) -> dns.name.Name:
    """Parse a name such as ``svc-a.mesh.test``; it is absolute with or without a final dot."""
    try:
        return dns.name.from_text(name, dns.name.root)
    except dns.exception.DNSException as error:
        raise ValueError(f"{name!r} is not a domain name: {error}") from error


def rdata_type(rdtype: str) -> dns.rdatatype.RdataType:
    """Parse a record type such as ``"SRV"``."""
    try:
        return dns.rdatatype.from_text(rdtype)
    except dns.exception.DNSException as error:
        raise ValueError(f"{rdtype!r} is not a DNS record type; it is one such as A, AAAA, SRV, CNAME, TXT") from error


def _parse(name: str, rdtype: str, rdatas: tuple[str, ...]) -> list[dns.rdata.Rdata]:
    if not rdatas:
        raise ValueError(f"no {rdtype} record was given for {name}")
    try:
        return [
            dns.rdata.from_text(dns.rdataclass.IN, rdata_type(rdtype), rdata, origin=dns.name.root, relativize=False)
            for rdata in rdatas
        ]
    except dns.exception.DNSException as error:
        raise ValueError(f"{rdtype} records of {name} cannot be {rdatas}: {error}") from error
