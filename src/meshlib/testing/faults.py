"""Script of faults that test servers read before every answer: which fault, for which calls, how often."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Fault = TypeVar("Fault")
"""Value in a script; its meaning is that of the server that reads it."""

Key = tuple[object, ...]
"""Key of a fault, such as ``(method,)`` or ``(name, type)``; ``None`` matches anything."""


@dataclass(slots=True)
class _Entry(Generic[Fault]):
    key: Key
    fault: Fault
    remaining: int | None  # None: until healed

    def covers(self, facts: Key) -> bool:
        return all(want is None or want == have for want, have in zip(self.key, facts, strict=True))

    @property
    def breadth(self) -> int:
        return sum(part is None for part in self.key)


class Script(Generic[Fault]):
    """Ordered faults. Not thread-safe: its owner uses it under a lock.

    The most specific key applies. For equal keys, faults with a number of uses come first, oldest first, so that they
    apply in the order written. Of the faults without such a number, which come last, the latest applies.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry[Fault]] = []

    def add(self, key: Key, fault: Fault, *, times: int | None) -> None:
        """Add a fault for the next ``times`` cases that ``key`` covers; ``None``: until ``heal``."""
        if times is not None and times < 1:
            raise ValueError(f"times must be at least 1, or None to last until heal(): got {times}")
        if times is None:
            self._entries = [entry for entry in self._entries if entry.key != key or entry.remaining is not None]
        self._entries.append(_Entry(key, fault, times))

    def take(self, facts: Key) -> Fault | None:
        """Return the fault for the case that ``facts`` describe, and use it once; None if there is none."""
        covering = [entry for entry in self._entries if entry.covers(facts)]
        if not covering:
            return None
        entry = min(covering, key=lambda entry: (entry.breadth, entry.remaining is None))
        if entry.remaining is not None:
            entry.remaining -= 1
            if not entry.remaining:
                self._entries.remove(entry)
        return entry.fault

    def heal(self, key: Key) -> None:
        """Remove every fault whose key is ``key`` or narrower."""
        self._entries = [
            entry
            for entry in self._entries
            if not all(want is None or want == have for want, have in zip(key, entry.key, strict=True))
        ]
