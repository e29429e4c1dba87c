"""What telemetry says alike of every call of a method, made once."""

from typing import final

from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes

__all__ = ["Known"]


@final
class Known(dict[str, Attributes]):
    """The attributes of calls of one method that have ended, by their status.

    Args:
        server: the attributes of what was asked for.
        uri: the same as gRPC A66 names it.
        method: its full name.
    """

    __slots__ = ("begun", "name", "tried")

    def __init__(self, server: Attributes, uri: str, method: str) -> None:
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
