"""Everything that a caller can observe of a call, as one value: two channels are alike if these are equal."""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio

Metadata = tuple[tuple[str, str | bytes], ...] | None

# Types that code outside grpc may name in `except` or isinstance(); the private classes behind them may differ.
_PUBLIC: tuple[type, ...] = (
    grpc.aio.AioRpcError,
    grpc.RpcError,
    grpc.RpcContext,
    grpc.Call,
    grpc.Future,
    grpc.FutureCancelledError,
    grpc.FutureTimeoutError,
    grpc.aio.UsageError,
    grpc.aio.InternalError,
    grpc.aio.BaseError,
    asyncio.CancelledError,
    asyncio.InvalidStateError,
    asyncio.TimeoutError,
    StopIteration,
    StopAsyncIteration,
    AttributeError,
    TypeError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    Exception,
)
_ADDRESS = re.compile(r"(ipv[46]:)?(%5B::1%5D|\[::1\]|127\.0\.0\.\d+):\d+|0x[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception: its public types, and its fields."""

    types: frozenset[str]
    text: str | None = None
    """`str()` if it is not an RpcError: an RpcError's consists of the fields below, and of C-core's source lines."""
    code: grpc.StatusCode | None = None
    details: str | None = None
    initial_metadata: Metadata = None
    trailing_metadata: Metadata = None

    @property
    def is_status(self) -> bool:
        """Whether it is the status of a call; else the caller made a mistake that grpc could not carry out."""
        return self.code is not None or not self.types.isdisjoint({"CancelledError", "FutureCancelledError"})

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """The facts of `error`."""
        types = frozenset(public.__name__ for public in _PUBLIC if isinstance(error, public))
        if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call | grpc.aio.AioRpcError):
            return cls(
                types=types,
                code=error.code(),
                details=plain(error.details()),
                initial_metadata=pairs(error.initial_metadata()),
                trailing_metadata=pairs(error.trailing_metadata()),
            )
        return cls(types=types, text=plain(str(error)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One call from its invocation to its end. A field that does not apply to its kind is None."""

    messages: tuple[Any, ...] = ()
    raised: Failure | None = None
    """By the invocation, or where the caller waited for the answer."""
    where: str = ""
    """Where it was raised: `invoke`, `write`, `read`, `result`."""
    raised_again: Failure | None = None
    """On a second request by the caller."""
    code: grpc.StatusCode | None = None
    details: str | None = None
    initial_metadata: Metadata = None
    trailing_metadata: Metadata = None
    cancel: bool | None = None
    """Result of `cancel()`, if the caller cancelled."""
    flags: tuple[tuple[str, bool], ...] = ()
    """`done`, `cancelled`, `running`, `is_active`, after the end."""
    callbacks: tuple[tuple[str, int], ...] = ()
    """Number of runs of each."""
    callback_after_end: bool | None = None
    """Result of `add_callback` after the end of the call."""
    request_metadata: Metadata = None
    """The request metadata that the server saw."""

    @property
    def headers(self) -> Metadata:
        """The initial metadata of the answer, wherever the caller received it."""
        return self.initial_metadata or (self.raised and self.raised.initial_metadata)

    @property
    def end(self) -> str:
        """In one word: the status of the call, or the type of an error without a status."""
        if self.raised is not None and self.raised.code is None and self.code is None:
            return next(name for name in (t.__name__ for t in _PUBLIC) if name in self.raised.types)
        code = self.code if self.code is not None else self.raised.code if self.raised is not None else None
        return code.name if code is not None else "OK"

    def but_for_details(self) -> "Observation":
        """The same without the status message, to which a mesh may add facts that grpc lacks."""
        return self._told(lambda told: replace(told, details=told.details and "..."))

    def but_for_headers(self) -> "Observation":
        """The same without the metadata that goes first in each direction."""
        return replace(self._told(lambda told: replace(told, initial_metadata=None)), request_metadata=None)

    def _told(self, change: Callable[[Any], Any]) -> "Observation":
        again = self.raised_again
        raised = self.raised
        return replace(change(self), raised=raised and change(raised), raised_again=again and change(again))


def plain(text: str | None) -> str | None:
    """Remove varying parts of grpc's texts: ports, memory addresses, the component that noticed a deadline first."""
    return text and _ADDRESS.sub("ADDRESS", text.replace("Stream removed (Deadline Exceeded)", "Deadline Exceeded"))


def pairs(metadata: Iterable[Any] | None) -> Metadata:
    """Metadata of either runtime as plain tuples; None is distinct from empty."""
    return None if metadata is None else tuple((key, value) for key, value in metadata)
