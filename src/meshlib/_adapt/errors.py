"""Errors of calls whose failure is not that of a single grpc attempt."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, final

import grpc
import grpc.aio

from meshlib._core.status import Outcome
from meshlib._core.view import CallMesh

__all__ = ["AioMeshRpcError", "MeshRpcError", "status_code"]


class Metadatum(NamedTuple):
    """Pair of metadata; grpc's class of that name cannot be pickled."""

    key: str
    value: str | bytes


def status_code(name: str) -> grpc.StatusCode:
    """Return grpc's member for the name of a status code."""
    return grpc.StatusCode[name]


@final
class MeshRpcError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """Error of a call that failed after several attempts, at its deadline, or before the first attempt.

    A ``grpc.RpcError``. Code, details and metadata are those of the last server, so that rich errors can be read from
    them. ``str()`` and ``debug_error_string()`` describe the attempts. Like grpc's own error it is also a finished
    ``grpc.Call`` and ``grpc.Future``, because interceptors call ``result()`` on it. It can be copied and pickled.

    Args:
        outcome: how the call ended.
        details: the status message.
        mesh: the attempts, for ``.mesh``.
        story: the same in words.
    """

    def __init__(self, outcome: Outcome, details: str, mesh: CallMesh | None, story: str = "") -> None:
        story = story or f"{outcome.code}: {details}"
        super().__init__(story)
        self.mesh = mesh
        self._code = status_code(outcome.code)
        self._details = details
        self._story = story
        last: Any = outcome.error
        self._initial: Any = () if last is None else last.initial_metadata()
        self._trailing: Any = () if last is None else last.trailing_metadata()
        self._debug = story if last is None else f"{story}; {last.debug_error_string()}"

    def __reduce__(self) -> Any:
        state = dict(vars(self))
        for name in ("_initial", "_trailing"):
            state[name] = tuple(Metadatum(key, value) for key, value in state[name] or ())
        return _again, (type(self), state)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def initial_metadata(self) -> Any:
        return self._initial

    def trailing_metadata(self) -> Any:
        return self._trailing

    def debug_error_string(self) -> str:
        """Return a description of the attempts, and C-core's debug string of the last one."""
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
        return self._story

    def __repr__(self) -> str:
        return f"<MeshRpcError {self._story}>"


def _again(kind: type[Any], state: dict[str, Any]) -> Any:
    """Recreate an error, for copies of it."""
    made = kind.__new__(kind, state["_story"])
    for name, value in state.items():
        setattr(made, name, value)
    return made


@final
class AioMeshRpcError(grpc.aio.AioRpcError):
    """:class:`MeshRpcError` for asyncio: a ``grpc.aio.AioRpcError``."""

    def __init__(self, outcome: Outcome, details: str, mesh: CallMesh | None, story: str = "") -> None:
        last: Any = outcome.error
        empty = grpc.aio.Metadata()
        self._story = story or f"{outcome.code}: {details}"
        super().__init__(
            status_code(outcome.code),
            empty if last is None else last.initial_metadata(),
            empty if last is None else last.trailing_metadata(),
            details=details,
            debug_error_string=self._story if last is None else f"{self._story}; {last.debug_error_string()}",
        )
        self.mesh = mesh

    def __reduce__(self) -> Any:
        return _again, (type(self), dict(vars(self)))

    def __str__(self) -> str:
        return self._story

    def __repr__(self) -> str:
        return f"<AioMeshRpcError {self._story}>"
