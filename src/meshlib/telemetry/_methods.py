"""What telemetry says alike of every call of a method, made once."""

from typing import Final, final

from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes

__all__ = ["Known", "Methods"]

METHODS_KEPT: Final = 1024
"""Remembered per channel; an application has fewer, unless it makes up names."""


@final
class Known(dict[str, Attributes]):
    """The attributes of calls of one method that have ended, by their status.

    Args:
        method: its full name.
        server: the attributes of what was asked for.
        uri: the same as gRPC A66 names it.
    """

    __slots__ = ("begun", "name", "tried")

    def __init__(self, method: str, server: Attributes, uri: str) -> None:
        super().__init__()
        self.name = method[1:]
        self.begun: Attributes = {names.SYSTEM: "grpc", names.METHOD: self.name, **server}
        """Those of a call that has not ended."""
        self.tried: Attributes = {names.GRPC_METHOD: self.name, names.GRPC_TARGET: uri}
        """Those of its attempts, by the names of gRPC A66."""

    def __missing__(self, code: str) -> Attributes:
        made = {**self.begun, names.STATUS: code}
        if code != "OK":
            made[names.ERROR_TYPE] = code
        self[code] = made
        return made


@final
class Methods(dict[str, Known]):
    """All methods of a channel.

    Args:
        server: the attributes of what was asked for.
        uri: the same as gRPC A66 names it.
    """

    __slots__ = ("_server", "_uri")

    def __init__(self, server: Attributes, uri: str) -> None:
        super().__init__()
        self._server = server
        self._uri = uri

    def __missing__(self, method: str) -> Known:
        if len(self) >= METHODS_KEPT:
            self.clear()
        self[method] = made = Known(method, self._server, self._uri)
        return made
