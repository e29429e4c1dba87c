"""What is made once for a key, such as a method, and kept: but not without end."""

from collections.abc import Callable
from typing import Final, TypeVar, final

__all__ = ["BoundedCache"]

MOST: Final = 1024
"""More than an application has of methods, unless it makes up names, or a serializer for each call."""

K = TypeVar("K")
V = TypeVar("V")


@final
class BoundedCache(dict[K, V]):
    """What was made, by key: made when it is first asked for; the oldest makes room.

    Args:
        make: makes what belongs to a key.
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
