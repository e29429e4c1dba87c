"""What a stub calls: one multicallable per method, of the four kinds."""

from collections.abc import Iterable
from typing import Any

import grpc

from meshlib._adapt.metadata import given
from meshlib._sync.runtime import Lease
from meshlib._sync.subchannels import Method
from meshlib._sync.unary import blocking, serialized

__all__ = ["UnaryUnary"]


class Multicallable:
    """What the four kinds share."""

    __slots__ = ("_lease", "_method", "_plan")

    def __init__(self, lease: Lease, method: Method) -> None:
        self._lease = lease
        self._method = method
        self._plan = lease.settings.methods.plan(method.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._method.name} {self._lease.settings.target.text}>"


class UnaryUnary(Multicallable, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """One request, one response."""

    __slots__ = ()

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, Any]] | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        method = self._method
        data = serialized(request, method)
        return blocking(
            self._lease.runtime(), method, self._plan, data, timeout, given(metadata), credentials, wait_for_ready,
            compression, False,
        )  # fmt: skip

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, Any]] | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        method = self._method
        data = serialized(request, method)
        return blocking(
            self._lease.runtime(), method, self._plan, data, timeout, given(metadata), credentials, wait_for_ready,
            compression, True,
        )  # fmt: skip
