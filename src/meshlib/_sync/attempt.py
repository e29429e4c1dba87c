"""What the sync shell keeps of an attempt that no thread is blocked in, and whose thread is at work on it."""

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, final

from meshlib._core.commands import StartAttempt

__all__ = ["Attempt", "GrpcCall", "Place"]


class Place(Enum):
    """Whose thread is at work, and so what may be done on it."""

    USER = "the application's, inside one of our methods: no callbacks, it may hold locks they need"
    GRPC = "grpc's, which delivers events: no waiting, other calls depend on it"
    CONTROL = "the control thread: neither"
    ASIDE = "a short-lived one: both"


class GrpcCall(Protocol):
    """What is used of the object that grpc gives for an attempt."""

    def code(self) -> Any: ...
    def details(self) -> Any: ...
    def initial_metadata(self) -> Any: ...
    def trailing_metadata(self) -> Any: ...
    def cancel(self) -> Any: ...
    def done(self) -> bool: ...
    def result(self) -> Any: ...
    def add_done_callback(self, fn: Callable[[Any], None]) -> None: ...
    def __next__(self) -> Any: ...


@final
class Attempt:
    """What the shell keeps of an attempt, beside the machine's record of it. Written under the engine's lock."""

    __slots__ = ("call", "cancelled", "command", "ended", "readers", "reported", "starter")

    def __init__(self, command: StartAttempt) -> None:
        self.command = command
        self.call: GrpcCall | None = None
        """grpc's, once it has been started."""
        self.cancelled = False
        self.ended = False
        """grpc says it has ended, and a reader has yet to say what it found before."""
        self.readers = 0
        """Threads inside its ``next()``."""
        self.reported = False
        self.starter: tuple[int, Place] | None = None
        """The thread that is starting it, to tell whether grpc's callback comes on that one."""

    @property
    def stands(self) -> bool:
        """Whether its answer may still count. Asked under the engine's lock."""
        return not self.reported and self.command.outcome is None and not self.command.dropped
