"""Multicallables: the callables of stubs, one for each method, of the four kinds."""

from typing import Any, Final

import grpc
import grpc.aio

from meshlib._adapt.grpcio import aio_intercepted
from meshlib._adapt.metadata import Metadata
from meshlib._aio.connectivity import CLOSED_CHANNEL
from meshlib._aio.runtime import ChannelHandle
from meshlib._aio.streams import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from meshlib._aio.unary import UnaryUnaryCall
from meshlib._control.invocation import Invocation
from meshlib._control.methods import Method
from meshlib._core.bounded_cache import BoundedCache

__all__ = ["CALLABLES"]

_CALLS: Final[dict[str, Any]] = {
    "unary_unary": UnaryUnaryCall,
    "unary_stream": UnaryStreamCall,
    "stream_unary": StreamUnaryCall,
    "stream_stream": StreamStreamCall,
}


def _given(metadata: Any) -> Metadata:
    """Return the caller's metadata in a form that can be sent more than once.

    Raises:
        TypeError, ValueError: they are not pairs; as raised by grpc.aio.
    """
    return tuple((key, value) for key, value in metadata)


class Multicallable:
    """Base class of the four kinds."""

    __slots__ = ("_lease", "_method", "_renamed")

    def __init__(self, lease: ChannelHandle, method: Method) -> None:
        self._lease = lease
        self._method = method
        kind = type(self)
        self._renamed: BoundedCache[str, Multicallable] = BoundedCache(
            lambda name: kind(lease, Method(method.kind, name, method.serializer, method.deserializer, False))
        )

    def _call(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        method = self._method
        interceptors = self._lease.interceptors[method.kind]
        if not interceptors:
            return _CALLS[method.kind](
                self._lease,
                Invocation(
                    method,
                    timeout,
                    _given(metadata) if metadata else (),
                    credentials,
                    wait_for_ready,
                    compression,
                ),
                request,
            )
        lease = self._lease
        known = grpc.aio.Metadata(*(_given(metadata) if metadata else ()))
        if lease.closed:
            raise grpc.aio.UsageError(CLOSED_CHANNEL)

        def innermost(details: Any, request: Any) -> Any:
            return self._named(details.method)._innermost(details, request, compression)

        call = aio_intercepted(
            method.kind,
            interceptors,
            innermost,
            request,
            timeout,
            known,
            credentials,
            wait_for_ready,
            method.name,
            method.serializer,
            method.deserializer,
            lease.runtime().loop,
        )
        lease.intercepted.add(call)
        return call

    def _innermost(self, details: Any, request: Any, compression: grpc.Compression | None) -> Any:
        invocation = Invocation(
            self._method,
            details.timeout,
            _given(details.metadata) if details.metadata else (),
            details.credentials,
            details.wait_for_ready,
            compression,
        )
        return _CALLS[self._method.kind](self._lease, invocation, request)

    def _named(self, name: str | bytes) -> "Multicallable":
        """Return this multicallable, or another if an interceptor has changed the method."""
        text = name.decode() if isinstance(name, bytes) else name
        return self if text == self._method.name else self._renamed[text]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._method.name} {self._lease.settings.config.listener.target.text}>"


class UnaryUnary(Multicallable, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """Multicallable with one request and one response."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._call(request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStream(Multicallable, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """Multicallable with one request and a stream of responses."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._call(request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnary(Multicallable, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """Multicallable with a stream of requests and one response."""

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


class StreamStream(Multicallable, grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """Multicallable with a stream of requests and a stream of responses."""

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


CALLABLES: Final[dict[str, Any]] = {
    "unary_unary": UnaryUnary,
    "unary_stream": UnaryStream,
    "stream_unary": StreamUnary,
    "stream_stream": StreamStream,
}
