"""The balancers of this process by name, those of installed packages among them."""

from importlib import metadata
from typing import Final

from meshlib._core.balancing.registry import BalancerRegistry

__all__ = ["REGISTRY"]

REGISTRY: Final = BalancerRegistry(lambda: metadata.entry_points(group="meshlib.balancers"))
