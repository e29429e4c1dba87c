"""grpc's calls without grpc's threads, which do not start at the exit of the interpreter.

A thread of the channel completes a grpc future, and another one reads the requests of a stream. On CPython 3.12 these
threads cannot be started in ``atexit``, and the call fails after the request was sent. So a future becomes a blocking
call, a stream of responses uses grpc's single-threaded class, and requests are sent before the first response is read.
"""

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, Final, cast

import grpc

from meshlib._adapt.grpcio.features import EXIT, cygrpc, private

__all__ = ["threadless"]

_channel: Final = private("_channel")
_common: Final = private("_common")
_compression: Final = private("_compression")

Multicallable = Callable[..., Any]


def threadless(made: Any) -> Multicallable:
    """Return a function that starts a call of ``made``, a grpc multicallable, on the thread that waits for the call.

    With interceptors before grpc's own, or an unknown version of grpcio, it is grpc's own call.
    """
    if isinstance(made, grpc.StreamUnaryMultiCallable):
        made = getattr(made, "_made", made)  # ours, which compresses
    if EXIT:
        if type(made) is _channel._UnaryStreamMultiCallable:
            return _stream(made)
        if type(made) is _channel._StreamStreamMultiCallable:
            return _Requests(made, one_response=False)
        if type(made) is _channel._StreamUnaryMultiCallable:
            return _Requests(made, one_response=True)
    if not hasattr(made, "with_call"):
        return cast("Multicallable", made)
    if isinstance(made, grpc.StreamUnaryMultiCallable):
        return made.future
    return _future(made)


def _future(made: Any) -> Multicallable:
    def send(*arguments: Any) -> Any:
        try:
            return made.with_call(*arguments)[1]
        except grpc.RpcError as error:
            if not hasattr(error, "trailing_metadata"):
                raise
            return error  # also grpc's call object

    return send


def _stream(made: Any) -> Multicallable:
    single: Any = _channel._SingleThreadedUnaryStreamMultiCallable
    return cast(
        "Multicallable",
        single(
            made._channel,
            made._method,
            made._target,
            made._request_serializer,
            made._response_deserializer,
            made._registered_call_handle,
        ),
    )


class _Requests:
    """A multicallable with a stream of requests, all sent by the call itself.

    Args:
        made: a grpc multicallable.
        one_response: whether there is one response, which the call awaits, too.
    """

    def __init__(self, made: Any, *, one_response: bool) -> None:
        self._made = made
        self._one_response = one_response

    def __call__(
        self,
        requests: Iterable[bytes],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Return the call, with every request sent."""
        made, grpcs, types = self._made, _channel, cygrpc.OperationType
        deadline = grpcs._deadline(timeout)
        due = grpcs._STREAM_UNARY_INITIAL_DUE if self._one_response else grpcs._STREAM_STREAM_INITIAL_DUE
        state = grpcs._RPCState(due, None, None, None, None)
        state.rpc_start_time = perf_counter()
        state.method = _common.decode(made._method)
        state.target = _common.decode(made._target)
        flags = grpcs._InitialMetadataFlags().with_wait_for_ready(wait_for_ready)
        headers = cygrpc.SendInitialMetadataOperation(_compression.augment_metadata(metadata, compression), flags)
        begin = [headers, cygrpc.ReceiveStatusOnClientOperation(0)]
        if self._one_response:
            begin.append(cygrpc.ReceiveMessageOperation(0))
        call = made._channel.segregated_call(
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            made._method,
            None,
            deadline,
            metadata,
            None if credentials is None else credentials._credentials,
            ((tuple(begin), None), ((cygrpc.ReceiveInitialMetadataOperation(0),), None)),
            made._context,
            made._registered_call_handle,
        )
        read = made._response_deserializer
        operation: Any
        for request in requests:
            operation = cygrpc.SendMessageOperation(request, 0)
            if not _sent(call, state, operation, types.send_message, read):
                break
        else:
            _sent(call, state, cygrpc.SendCloseFromClientOperation(0), types.send_close_from_client, read)
        if not self._one_response:
            return grpcs._SingleThreadedRendezvous(state, call, read, deadline)
        while state.due:
            grpcs._handle_event(call.next_event(), state, read)
        return grpcs._MultiThreadedRendezvous(state, call, read, deadline)


def _sent(call: Any, state: Any, operation: Any, kind: Any, read: Any) -> bool:
    """Send one operation; False if the call has already ended."""
    if state.code is not None or not call.operate((operation,), None):
        return False
    state.due.add(kind)
    while kind in state.due:
        _channel._handle_event(call.next_event(), state, read)
    return state.code is None
