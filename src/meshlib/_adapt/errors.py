"""The errors a caller sees where no single attempt of grpc's can speak for the whole call."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, final

import grpc
import grpc.aio

from meshlib._core.status import Outcome
from meshlib._core.view import CallMesh

__all__ = ["AioMeshRpcError", "MeshRpcError", "status_code"]


def status_code(name: str) -> grpc.StatusCode:
    """grpc's member for the name of a status code."""
    return grpc.StatusCode[name]


@final
class MeshRpcError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that ended after several attempts, or before the first: what ``except grpc.RpcError`` catches.

    Code and metadata are the last server's; the details say what the mesh did. It is a finished ``grpc.Call`` and
    ``grpc.Future``, as grpc's own error is, because interceptors call ``result()`` on it.
    """

    def __init__(self, outcome: Outcome, details: str, mesh: CallMesh | None) -> None:
        super().__init__(details)
        self.mesh = mesh
        self._code = status_code(outcome.code)
        self._details = details
        last: Any = outcome.error
        self._initial: Any = () if last is None else last.initial_metadata()
        self._trailing: Any = () if last is None else last.trailing_metadata()
        self._debug = "" if last is None else last.debug_error_string()

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def initial_metadata(self) -> Any:
        return self._initial

    def trailing_metadata(self) -> Any:
        return self._trailing

    def debug_error_string(self) -> str:
        """C-core's account of the last attempt."""
        return self._debug

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> "MeshRpcError":
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        try:
            raise self
        except grpc.RpcError:
            return sys.exc_info()[2]

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def __str__(self) -> str:
        return f"{self._code.name}: {self._details}"

    def __repr__(self) -> str:
        return f"<MeshRpcError {self}>"


@final
class AioMeshRpcError(grpc.aio.AioRpcError):
    """The same for asyncio."""

    def __init__(self, outcome: Outcome, details: str, mesh: CallMesh | None) -> None:
        last: Any = outcome.error
        empty = grpc.aio.Metadata()
        super().__init__(
            status_code(outcome.code),
            empty if last is None else last.initial_metadata(),
            empty if last is None else last.trailing_metadata(),
            details=details,
            debug_error_string="" if last is None else last.debug_error_string(),
        )
        self.mesh = mesh

    def __reduce__(self) -> Any:
        return (
            grpc.aio.AioRpcError,
            (self.code(), self.initial_metadata(), self.trailing_metadata(), self.details(), self.debug_error_string()),
        )
