"""Multicallables: the callables of stubs, one for each method, of the four kinds."""

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import grpc.experimental

from meshlib._adapt.errors import MeshRpcError
from meshlib._adapt.metadata import given
from meshlib._control.invocation import Invocation
from meshlib._control.methods import Method
from meshlib._sync.engine import Engine
from meshlib._sync.futures import CLOSED_FUTURE, Future, begun, made, result
from meshlib._sync.runtime import ChannelHandle
from meshlib._sync.streams import ResponseStream, StreamEngine
from meshlib._sync.subchannels import CLOSED_CHANNEL
from meshlib._sync.unary import blocking, serialized, unserialized

__all__ = ["StreamStream", "StreamUnary", "UnaryStream", "UnaryUnary"]

Metadata = Iterable[tuple[str, Any]] | None

_SINGLE_THREADED = grpc.experimental.ChannelOptions.SingleThreadedUnaryStream


class Multicallable:
    """Base class of the four kinds."""

    __slots__ = ("_lease", "_method")

    def __init__(self, lease: ChannelHandle, method: Method) -> None:
        self._lease = lease
        self._method = method

    def _engine(
        self,
        kind: type[Engine],
        closed: str,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Engine:
        """An engine for a call that has not begun; ``closed``: the error text if the channel is closed."""
        invocation = Invocation(self._method, timeout, given(metadata), credentials, wait_for_ready, compression)
        return made(kind, self._lease, invocation, request, closed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._method.name} {self._lease.settings.config.listener.target.text}>"


class UnaryUnary(Multicallable, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """Multicallable with one request and one response."""

    __slots__ = ()

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        lease, method = self._lease, self._method
        plan = lease.plans[method.name]
        if plan.hedging is not None:
            engine = self._engine(
                Engine, CLOSED_CHANNEL, request, timeout, metadata, credentials, wait_for_ready, compression
            )
            return result(engine)
        try:
            data = serialized(request, method)
        except MeshRpcError as error:
            unserialized(lease, method, given(metadata), error)
            raise
        return blocking(
            lease.runtime(), method, plan, data, timeout, () if metadata is None else tuple(metadata), credentials,
            wait_for_ready, compression, False,
        )  # fmt: skip

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        lease, method = self._lease, self._method
        plan = lease.plans[method.name]
        if plan.hedging is not None:
            engine = self._engine(
                Engine, CLOSED_CHANNEL, request, timeout, metadata, credentials, wait_for_ready, compression
            )
            return result(engine), Future(engine)
        try:
            data = serialized(request, method)
        except MeshRpcError as error:
            unserialized(lease, method, given(metadata), error)
            raise
        return blocking(
            lease.runtime(), method, plan, data, timeout, () if metadata is None else tuple(metadata), credentials,
            wait_for_ready, compression, True,
        )  # fmt: skip

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return begun(
            Future(
                self._engine(
                    Engine, CLOSED_FUTURE, request, timeout, metadata, credentials, wait_for_ready, compression
                )
            )
        )


class UnaryStream(Multicallable, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """Multicallable with one request and a stream of responses."""

    __slots__ = ("_closed",)

    def __init__(self, lease: ChannelHandle, method: Method) -> None:
        super().__init__(lease, method)
        single_threaded = any(name == _SINGLE_THREADED for name, _ in lease.settings.config.cluster.options)
        self._closed = CLOSED_CHANNEL if single_threaded else CLOSED_FUTURE
        """Error text as in grpc, where it depends on the option, which has no other effect here."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        engine = self._engine(
            StreamEngine, self._closed, request, timeout, metadata, credentials, wait_for_ready, compression
        )
        return begun(ResponseStream(engine))


class StreamUnary(Multicallable, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """Multicallable with a stream of requests and one response."""

    __slots__ = ()

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        engine = self._engine(
            Engine, CLOSED_CHANNEL, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )
        return result(engine)

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        engine = self._engine(
            Engine, CLOSED_CHANNEL, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )
        return result(engine), Future(engine)

    def future(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return begun(
            Future(
                self._engine(
                    Engine, CLOSED_FUTURE, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
                )
            )
        )


class StreamStream(Multicallable, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """Multicallable with a stream of requests and a stream of responses."""

    __slots__ = ()

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return begun(
            ResponseStream(
                self._engine(
                    StreamEngine,
                    CLOSED_FUTURE,
                    request_iterator,
                    timeout,
                    metadata,
                    credentials,
                    wait_for_ready,
                    compression,
                )
            )
        )
