"""The balancers of this process by name, those of installed packages among them."""

from collections.abc import Iterable
from typing import Final

from meshlib._core.balancing.registry import BalancerRegistry
from meshlib._core.discovery.registry import EntryPoint

__all__ = ["REGISTRY"]


def _entry_points() -> Iterable[EntryPoint]:
    from importlib import metadata  # milliseconds that a program without plug-ins need not spend

    return metadata.entry_points(group="meshlib.balancers")


REGISTRY: Final = BalancerRegistry(_entry_points)
