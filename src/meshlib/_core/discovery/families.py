"""The two address families of a host: which addresses count, and what happens if one family fails.

If no name server answers for one family, the other is used. Load balancers that answer SERVFAIL to AAAA, and firewalls
that drop the query, are common.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from meshlib._core.discovery.policy import Family

__all__ = ["RETRY", "FamilyAnswer", "combined", "grouped", "of_family", "patience"]

RETRY: Final = 5.0
"""Seconds until the next lookup if a part of this one failed."""

PAIR_GRACE: Final = 0.25
"""Seconds to wait for the second address of a host once the first is known (RFC 8305 section 3 has 0.05)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyAnswer:
    """The outcome of the query for one family.

    Args:
        code: ``"NOERROR"`` or ``"NXDOMAIN"``; None if no server answered.
        addresses: the records.
        ttl: seconds.
    """

    code: str | None
    addresses: tuple[str, ...] = ()
    ttl: float = 0.0


def of_family(addresses: Iterable[str], family: Family) -> tuple[str, ...]:
    """Return the addresses that count; ``auto`` takes IPv4 if there is any."""
    addresses = tuple(addresses)
    v4 = tuple(address for address in addresses if ":" not in address)
    v6 = tuple(address for address in addresses if ":" in address)
    return {"v4": v4, "v6": v6, "auto": v4 or v6, "all": addresses}[family]


def grouped(addresses: Sequence[str], family: Family, *, pair: bool) -> tuple[tuple[str, ...], bool]:
    """Return the addresses that count, and whether they belong to one host.

    With ``pair``, exactly one IPv4 and one IPv6 address are one host with two addresses. DNS does not pair several
    addresses of a family.
    """
    v4, v6 = of_family(addresses, "v4"), of_family(addresses, "v6")
    if pair and family in ("auto", "all") and len(v4) == len(v6) == 1:
        return v4 + v6, True
    return of_family(addresses, family), False


def patience(v4: FamilyAnswer | None, v6: FamilyAnswer | None, family: Family, *, query_timeout: float) -> float | None:
    """Return the seconds left to wait for the missing outcome; None: until the deadline of the resolution."""
    first = v4 or v6
    assert first is not None
    if first.code is None:
        return None
    if v4 is None:  # a packet may be lost: time for one more query
        return 2 * query_timeout if first.addresses else None
    if v4.addresses:
        return 2 * query_timeout if family == "all" else min(PAIR_GRACE, query_timeout)
    return query_timeout if v4.code == "NXDOMAIN" else None


def combined(
    v4: FamilyAnswer, v6: FamilyAnswer | None, family: Family, *, known: Sequence[str], skipped: bool
) -> FamilyAnswer | None:
    """Combine two outcomes; None if it is unknown whether there are addresses.

    Args:
        v4: of the A records.
        v6: of the AAAA records; None if not queried.
        family: which addresses count.
        known: the last good addresses: those of a family without an answer are kept.
        skipped: AAAA records were wanted, but not queried.
    """
    asked = [v4] if v6 is None else [v4, v6]
    answered = [outcome for outcome in asked if outcome.code is not None]
    found = [outcome for outcome in answered if outcome.addresses]
    failed = len(answered) < len(asked)
    if failed and not found and not any(outcome.code == "NXDOMAIN" for outcome in answered):
        return None
    ttl = min((outcome.ttl for outcome in found or answered), default=0.0)
    if not found:
        return FamilyAnswer(code=answered[0].code, ttl=ttl)
    first = v4.addresses if v4.code is not None else of_family(known, "v4")
    lost = skipped if v6 is None else v6.code is None
    second = of_family(known, "v6") if lost else () if v6 is None else v6.addresses
    # With an A record the AAAA record is optional: its failure does not shorten the refresh.
    soon = v4.code is None or (failed and family == "all")
    return FamilyAnswer(code="NOERROR", addresses=first + second, ttl=min(ttl, RETRY) if soon else ttl)
