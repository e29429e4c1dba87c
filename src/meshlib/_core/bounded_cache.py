"""Bounded cache of values made from their keys, such as one per method."""

from collections.abc import Callable
from typing import Final, TypeVar, final

__all__ = ["BoundedCache"]

MOST: Final = 1024
"""More methods than an application has, unless it invents names, or makes a serializer for each call."""

K = TypeVar("K")
V = TypeVar("V")


@final
class BoundedCache(dict[K, V]):
    """Cache that makes a missing value on first use and evicts the oldest.

    Args:
        make: makes the value of a key.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> V:
        made = self._make(key)
        while len(self) >= MOST:
            try:
                oldest = next(iter(self), key)
            except RuntimeError:  # another thread has added one
                continue
            self.pop(oldest, None)
        self[key] = made
        return made
