"""Endpoints from a set of SRV records (RFC 2782).

Priority becomes a tier, weight a share within it. RFC 2782 has a client draw one record at random for each connection.
A mesh keeps a connection to every target, so the balancer gets the same proportions as weights instead.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

from meshlib._core.address import join
from meshlib._core.endpoint import MAX_WEIGHT, Endpoint

__all__ = ["SrvRecord", "endpoints", "targets"]

ZERO_SHARE = Fraction(1, 100)
"""Share of a record of weight 0, as a part of the smallest other: "a very small chance of being selected"."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SrvRecord:
    """One SRV record. ``target`` is lower case without its final dot; empty means ``"."``."""

    priority: int
    weight: int
    port: int
    target: str


def targets(records: Iterable[SrvRecord]) -> tuple[str, ...]:
    """Return the host names to look up, each once. The target ``"."`` has none: no such service (RFC 2782)."""
    return tuple(dict.fromkeys(record.target for record in records if record.target and record.port))


def endpoints(records: Iterable[SrvRecord], hosts: Mapping[str, Sequence[Sequence[str]]]) -> tuple[Endpoint, ...]:
    """Return the endpoints of the records.

    Args:
        records: the whole set, in any order.
        hosts: the hosts of each target, each as its IP addresses: the endpoint's own, then its alternatives. A missing
            target has no endpoint now.

    Returns:
        Endpoints in order of priority. A target with several hosts divides its weight among them. Equal addresses of
        one tier are one endpoint, their weights added; of several tiers, they belong to the first. The weights of a
        tier are scaled to whole numbers.
    """
    found: dict[str, Endpoint] = {}
    usable = sorted(record for record in records if record.port and hosts.get(record.target))
    for priority, tier in groupby(usable, key=lambda record: record.priority):
        shares: dict[str, Fraction] = {}
        alternatives: dict[str, tuple[str, ...]] = {}
        members = tuple(tier)
        for record, share in zip(members, _shares(members), strict=True):
            behind = hosts[record.target]
            for ips in behind:
                address, *others = (join(ip, record.port) for ip in ips)
                shares[address] = shares.get(address, Fraction(0)) + share / len(behind)
                alternatives.setdefault(address, tuple(others))
        whole = _whole(tuple(shares.values()))
        for address, weight in zip(shares, whole, strict=True):
            made = Endpoint(address=address, weight=weight, priority=priority, alternatives=alternatives[address])
            found.setdefault(address, made)
    return tuple(found.values())


def _shares(tier: Sequence[SrvRecord]) -> list[Fraction]:
    smallest = min((record.weight for record in tier if record.weight), default=0)
    if not smallest:
        return [Fraction(1)] * len(tier)
    return [Fraction(record.weight) or smallest * ZERO_SHARE for record in tier]


def _whole(shares: Sequence[Fraction]) -> list[int]:
    """Scale the shares to integer weights, with the largest 32-bit precision possible."""
    scale = Fraction(math.lcm(*(share.denominator for share in shares)))
    largest = max(shares) * scale
    if largest > MAX_WEIGHT:
        scale *= MAX_WEIGHT / largest
    return [max(1, math.floor(share * scale)) for share in shares]
