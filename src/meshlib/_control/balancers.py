"""The balancers of this process by name, including those of installed packages."""

from collections.abc import Iterable
from typing import Final

from meshlib._core.balancing.registry import BalancerRegistry
from meshlib._core.discovery.registry import EntryPoint

__all__ = ["REGISTRY"]


def _entry_points() -> Iterable[EntryPoint]:
    from importlib import metadata  # lazy: it takes milliseconds

    return metadata.entry_points(group="meshlib.balancers")


REGISTRY: Final = BalancerRegistry(_entry_points)
