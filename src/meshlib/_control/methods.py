"""The methods of a channel, and what is made for each of them once."""

from collections.abc import Callable
from typing import Any, Final, TypeVar, final

__all__ = ["Kept", "Method", "Multicallables"]

METHODS_KEPT: Final = 1024
"""Methods remembered per channel and per host. Applications have fewer; a serializer made anew per call has no end."""

K = TypeVar("K")
V = TypeVar("V")


@final
class Method:
    """One method of a channel as a stub named it: the key of every cache of multicallables.

    Args:
        kind: ``"unary_unary"``, ``"unary_stream"``, ``"stream_unary"`` or ``"stream_stream"``.
        name: the full method name.
        serializer: of requests; they reach a subchannel as bytes.
        deserializer: of responses.
        registered: generated code says that C-core should intern the method.
    """

    __slots__ = ("deserializer", "kind", "name", "registered", "serializer")

    def __init__(self, kind: str, name: str, serializer: Any, deserializer: Any, registered: bool) -> None:
        self.kind = kind
        self.name = name
        self.serializer = serializer
        self.deserializer = deserializer
        self.registered = registered


class Kept(dict[K, V]):
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
        while len(self) >= METHODS_KEPT:
            self.pop(next(iter(self)), None)
        self[key] = made
        return made


@final
class Multicallables:
    """The multicallables of one channel, made once: ``grpc.intercept_channel`` asks anew for every call.

    Args:
        make: makes the one of a method.
    """

    __slots__ = ("_kept", "_make")

    def __init__(self, make: Callable[[Method], Any]) -> None:
        self._make = make
        self._kept: Kept[Any, Any] = Kept(lambda key: make(Method(*key)))

    def get(self, kind: str, method: str, serializer: Any, deserializer: Any, registered: bool | None) -> Any:
        """The one of a method as a stub names it."""
        key = (kind, method, serializer, deserializer, bool(registered))
        try:
            hash(key)
        except TypeError:  # a serializer that cannot be hashed
            return self._make(Method(*key))
        return self._kept[key]
