"""The methods of a channel and their multicallables, each made once."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, final

from meshlib._core.bounded_cache import BoundedCache
from meshlib._core.policy import unmatched

__all__ = ["Method", "Multicallables"]

_log = logging.getLogger("meshlib")


@final
class Method:
    """One method of a channel as named by a stub: the key of every cache of multicallables.

    Args:
        kind: ``"unary_unary"``, ``"unary_stream"``, ``"stream_unary"`` or ``"stream_stream"``.
        name: the full method name.
        serializer: of requests; they reach a subchannel as bytes.
        deserializer: of responses.
        registered: generated code requested that C-core interns the method.
    """

    __slots__ = ("deserializer", "kind", "name", "registered", "serializer")

    def __init__(self, kind: str, name: str, serializer: Any, deserializer: Any, registered: bool) -> None:
        self.kind = kind
        self.name = name
        self.serializer = serializer
        self.deserializer = deserializer
        self.registered = registered


@final
class Multicallables:
    """The multicallables of one channel, made once: ``grpc.intercept_channel`` requests one for every call.

    Args:
        make: makes one for a method.
    """

    __slots__ = ("_kept", "_made", "_make")

    def __init__(self, make: Callable[[Method], Any]) -> None:
        self._made = made = set[str]()

        def noted(method: Method) -> Any:  # not a method: a cycle would keep an unclosed channel alive
            made.add(method.name)
            return make(method)

        self._make = noted
        self._kept: BoundedCache[Any, Any] = BoundedCache(lambda key: noted(Method(*key)))

    def get(self, kind: str, method: str, serializer: Any, deserializer: Any, registered: bool | None) -> Any:
        """Return the multicallable of a method."""
        key = (kind, method, serializer, deserializer, bool(registered))
        try:
            hash(key)
        except TypeError:  # a serializer that cannot be hashed
            return self._make(Method(*key))
        return self._kept[key]

    def report(self, target: str, policies: Iterable[str]) -> None:
        """Log once the keys of ``methods=`` that match no method here though their service has some.

        Args:
            target: of the channel.
            policies: the keys.
        """
        made = self._made.copy()
        self._made.clear()
        for name, close in unmatched(policies, made):
            hint = f"; did you mean {close}?" if close else ""
            _log.info("%s: methods[%r] matched no method of a stub or call%s", target, name, hint)
