"""The picks of a scripted channel by host, and endpoints by priority."""

from collections import Counter

from tests.core.channels import Channel

from meshlib._core.endpoint import Endpoint


def tiers(**priorities: int) -> list[Endpoint]:
    """Endpoints by name and priority."""
    return [Endpoint(address=name, priority=priority) for name, priority in priorities.items()]


def shares(channel: Channel, calls: int = 60) -> Counter[str]:
    """The number of picks of each host."""
    return Counter(channel.pick() for _ in range(calls))
