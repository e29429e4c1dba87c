"""Load balancing: the built-in balancers, and the interface for your own.

A balancer is frozen configuration. It makes a picker, which holds the state for one set of hosts and has one method::

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

A package registers its balancer for all its users with an entry point in the group ``meshlib.balancers``.
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
    """Register a balancer as ``balancer=name``, for all channels constructed from now on.

    Args:
        name: lower case letters, digits, ``_``, ``.`` and ``-``, a letter first; not a built-in name.
        factory: called without arguments at the construction of a channel; may be a class.

    Raises:
        ConfigError: the name is malformed, built in, or registered for another factory; the factory is not callable.
    """
    REGISTRY.register(name, factory)
