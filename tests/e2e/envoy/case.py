"""A case, and the figures it tells.

Figures are short texts by name. Where chance has a part in one, the case sorts it into classes so far apart that the
same behaviour always falls into the same one.
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
        name: What ``docs/differences.toml`` knows it by.
        run: Makes the calls and tells the figures.
        expect: What Envoy shows. meshlib is to show the same, but for what is listed as a difference.
        envoy: Envoy's configuration.
        meshlib: Arguments of ``meshlib.channel`` that mean the same.
        servers: How many.
        weights: Of the servers; all 1 if not given.
        priorities: Of the servers; all 0 if not given.
        named: The servers are found by a name, in DNS.
        shells: Of meshlib; both, where it costs little. What balances is one piece of code for both.
        add: Registers further services of the servers.
        wired: The first server is behind a wire that can be cut.
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
        """The name in DNS that is its own."""
        return f"{self.cluster.lower().replace('_', '-')}.mesh.test"

    def hosts(self, addresses: Sequence[str]) -> list[Host]:
        """Where its servers are."""
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
    """The class whose bounds, both included, ``value`` lies in; the value itself if in none."""
    return next((name for name, (low, high) in classes.items() if low <= value <= high), f"{value:g}")
