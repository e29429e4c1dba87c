"""A case, and its figures.

Figures are short texts by name. If chance affects one, the case sorts it into classes so far apart that the same
behaviour always falls into the same one.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from tests.e2e.envoy.bootstrap import Host, Service
from tests.e2e.envoy.callers import Result

if TYPE_CHECKING:
    from tests.e2e.envoy.stage import World

Figures = dict[str, str]

SHELLS = ("sync", "aio")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison.

    Args:
        name: Its name in ``docs/differences.toml``.
        run: Makes the calls and returns the figures.
        expect: Envoy's figures. meshlib must have the same, except for listed differences.
        envoy: Envoy's configuration.
        meshlib: Equivalent arguments of ``meshlib.channel``.
        servers: Number of servers.
        weights: Of the servers; all 1 if not given.
        priorities: Of the servers; all 0 if not given.
        named: The servers are found by a name, in DNS.
        shells: Of meshlib; both, if it costs little. Balancing is the same code in both.
        add: Registers further services of the servers.
        wired: The first server is behind a relay that can be cut.
    """

    name: str
    run: "Callable[[World], Figures]"
    expect: Figures
    envoy: Service = field(default_factory=Service)
    meshlib: Mapping[str, Any] = field(default_factory=dict)
    servers: int = 1
    weights: tuple[int, ...] = ()
    priorities: tuple[int, ...] = ()
    named: bool = False
    shells: tuple[str, ...] = SHELLS
    add: Callable[[grpc.Server], object] | None = None
    wired: bool = False

    @property
    def cluster(self) -> str:
        """Its name in Envoy, where a dot separates."""
        return self.name.replace(" ", "_").replace(".", "_").replace(",", "")

    @property
    def domain(self) -> str:
        """Its own name in DNS."""
        return f"{self.cluster.lower().replace('_', '-')}.mesh.test"

    def hosts(self, addresses: Sequence[str]) -> list[Host]:
        """The endpoints of its servers."""
        if self.named:
            return [Host(address=f"{self.domain}:{addresses[0].rpartition(':')[2]}")]
        weights, priorities = self.weights or (1,) * self.servers, self.priorities or (0,) * self.servers
        return [
            Host(address=address, weight=weight, priority=priority)
            for address, weight, priority in zip(addresses[: self.servers], weights, priorities, strict=True)
        ]


def codes(results: Sequence[Result]) -> str:
    """``OK 40, UNAVAILABLE 20``."""
    return ", ".join(f"{code} {n}" for code, n in sorted(Counter(result.code for result in results).items()))


def names(results: Sequence[Result]) -> str:
    """The servers that answered, in order, by their last letter: ``123123``."""
    return "".join("-" if result.server is None else result.server[-1] for result in results)


def between(value: float, classes: Mapping[str, tuple[float, float]]) -> str:
    """The class whose bounds, both included, contain ``value``; the value itself if none does."""
    return next((name for name, (low, high) in classes.items() if low <= value <= high), f"{value:g}")
