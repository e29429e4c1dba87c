"""Which host gets the next call: the balancers that come with meshlib, and what it takes to write another.

A balancer is frozen configuration; the picker it makes is the state for one membership, and has one method::

    @dataclass(frozen=True)
    class Fullest:
        def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
            return FullestPicker(hosts)

    class FullestPicker(Picker):
        def __init__(self, hosts: tuple[Host, ...]) -> None:
            self.hosts = hosts

        def pick(self, call: PickInfo, *, now: float) -> Host:
            return max(self.hosts, key=lambda host: host.in_flight)

    channel = meshlib.channel("svc-a", balancer=Fullest())

A package registers its balancer for all its users by an entry point of the group ``meshlib.balancers``.
"""

from meshlib._control.balancers import REGISTRY
from meshlib._core.balancing.contracts import Balancer, Host, Picker, PickInfo, Report
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.pick_first import PickFirst
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.balancing.random import Random
from meshlib._core.balancing.registry import BalancerFactory
from meshlib._core.balancing.round_robin import RoundRobin

__all__ = [
    "RoundRobin",
    "LeastRequest",
    "Random",
    "PickFirst",
    "Priorities",
    "Balancer",
    "Picker",
    "Host",
    "PickInfo",
    "Report",
    "register_balancer",
]


def register_balancer(name: str, factory: BalancerFactory) -> None:
    """Make ``balancer=name`` mean what ``factory`` makes, in all channels constructed from now on.

    Args:
        name: lower case letters, digits, ``_``, ``.`` and ``-``, a letter first; no built-in one.
        factory: called without arguments when a channel is constructed; a class will do.

    Raises:
        ConfigError: the name is malformed, built in, or registered for another factory; the factory is not callable.
    """
    REGISTRY.register(name, factory)
