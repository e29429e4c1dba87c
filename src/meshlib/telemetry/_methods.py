"""The attributes common to all calls of a method, made once."""

from typing import final

from meshlib.telemetry import _names as names
from meshlib.telemetry._instruments import Attributes

__all__ = ["Known"]


@final
class Known(dict[str, Attributes]):
    """The attributes of ended calls of one method, by status.

    Args:
        server: the attributes of the target.
        uri: the target in the form of gRPC A66.
        method: its full name.
    """

    __slots__ = ("begun", "name", "tried")

    def __init__(self, server: Attributes, uri: str, method: str) -> None:
        super().__init__()
        self.name = method[1:]
        self.begun: Attributes = {names.SYSTEM: "grpc", names.METHOD: self.name, **server}
        """Those of a call in flight."""
        self.tried: Attributes = {names.GRPC_METHOD: self.name, names.GRPC_TARGET: uri}
        """Those of attempts, with the names of gRPC A66."""

    def __missing__(self, code: str) -> Attributes:
        made = {**self.begun, names.STATUS: code}
        if code != "OK":
            made[names.ERROR_TYPE] = code
        self[code] = made
        return made
