"""The balancer of a service config."""

from collections.abc import Callable, Mapping
from typing import Final

from meshlib._core.balancing.contracts import Balancer
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.pick_first import PickFirst
from meshlib._core.balancing.random import Random
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.errors import unknown_name
from meshlib._core.service_config.document import Node
from meshlib._core.service_config.schema import BALANCER, fields, made

__all__ = ["first_known", "of_name"]

MAX_CHOICES: Final = 10
"""gRFC A48 reduces more to it."""


def first_known(node: Node) -> Balancer:
    """Return the balancer of ``loadBalancingConfig``.

    "Clients will iterate through the list in order and stop at the first policy that they support": gRFC A24. The
    configs of others are not checked.
    """
    balancer = None
    for name, config in [entry.only() for entry in node.items()]:
        if balancer is None and name in _BALANCERS:
            balancer = _BALANCERS[name](config)
    if balancer is None:
        raise node.refused(f"names no balancer of meshlib; known: {', '.join(_BALANCERS)}")
    return balancer


def of_name(node: Node) -> Balancer:
    """Return the balancer of the deprecated ``loadBalancingPolicy``, a name in any case."""
    name = node.text()
    if name.lower() not in _BALANCERS:
        raise unknown_name(node.path, name, _BALANCERS)
    return _BALANCERS[name.lower()](Node(node.path, {}))


def _least_request(node: Node) -> Balancer:
    given = fields(node, f"{BALANCER}.least_request")
    if "choiceCount" not in given:
        return LeastRequest()
    return made(given, lambda: LeastRequest(choice_count=min(given["choiceCount"].whole(), MAX_CHOICES)))


def _pick_first(node: Node) -> Balancer:
    shuffle = fields(node, f"{BALANCER}.pick_first").get("shuffleAddressList")
    if shuffle is not None and shuffle.flag():
        raise shuffle.refused("is not supported by meshlib, whose pick_first keeps to the resolver's order")
    return PickFirst()


def _random(node: Node) -> Balancer:
    fields(node, f"{BALANCER}.random")
    return Random()


def _round_robin(node: Node) -> Balancer:
    fields(node, f"{BALANCER}.round_robin")
    return RoundRobin()


_BALANCERS: Final[Mapping[str, Callable[[Node], Balancer]]] = {
    "least_request": _least_request,
    "least_request_experimental": _least_request,
    "pick_first": _pick_first,
    "random": _random,
    "round_robin": _round_robin,
}
