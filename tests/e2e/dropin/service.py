"""The service of these tests: each call's own request metadata controls it, so that no state is shared."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, NoReturn

import grpc

from meshlib.testing import Server

SERVICE = "dropin.Scripted"
METHODS = {
    "unary_unary": f"/{SERVICE}/UnaryUnary",
    "unary_stream": f"/{SERVICE}/UnaryStream",
    "stream_unary": f"/{SERVICE}/StreamUnary",
    "stream_stream": f"/{SERVICE}/StreamStream",
}
COPIES = 3
"""Number of copies of its request in `unary_stream`'s answer."""

SCRIPT = "x-script"
INITIAL = (("x-initial", "one"), ("x-initial", "two"), ("x-initial-bin", b"\x00\xff"))
TRAILING = (("x-trailing", "last"), ("x-trailing-bin", b"\xff\x00"))
CODE = grpc.StatusCode.FAILED_PRECONDITION
DETAILS = "the détails, with 100 % of what grpc escapes\n"
_HELD = 30.0  # seconds that a held call waits for its caller to cancel


class Script(StrEnum):
    """The service's behaviour for a call."""

    ECHO = "answer each request with itself, or all of them with one"
    FAIL = "end with `CODE` before any header"
    FAIL_AFTER_FIRST = "send headers, answer the first request, end with `CODE`"
    FAIL_EARLY = "the same without having seen the end of the requests"
    CRASH = "raise an exception"
    UNAVAILABLE = "end with UNAVAILABLE before any header"
    HOLD = "send nothing until the caller gives up"
    HOLD_AFTER_FIRST = "send headers, answer the first request, send nothing more until the caller gives up"
    ANSWER_EARLY = "answer the first request, end well without having seen the end of the requests"


def scripted_server(**options: Any) -> Server:
    """A server on 127.0.0.1 with this service."""
    return Server(add=_add_to, **options)


def has_one(server: Server) -> bool:
    """Whether a handler is running: for `Server.wait_until`."""
    return server.in_flight == 1


def has_none(server: Server) -> bool:
    """Whether no call is inside a handler; a held one leaves only when the server sees its cancellation."""
    return server.in_flight == 0


def _add_to(server: grpc.Server) -> None:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(lambda one, context: _joined([one], context)),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(lambda one, context: _answers([one] * COPIES, context)),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(_joined),
        "StreamStream": grpc.stream_stream_rpc_method_handler(_answers),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _joined(requests: Iterable[bytes], context: grpc.ServicerContext) -> bytes:
    return b"".join(_answers(requests, context))


def _answers(requests: Iterable[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    script = Script[dict(context.invocation_metadata()).get(SCRIPT, Script.ECHO.name)]
    requests = iter(requests)
    if script is Script.HOLD:
        _hold(context)
    context.set_trailing_metadata(TRAILING)
    if script in (Script.FAIL, Script.CRASH, Script.UNAVAILABLE):
        # To the end: in grpc.aio a write that meets the status of its call may end it as INTERNAL instead.
        deque(requests, maxlen=0)
        _fail(script, context)
    context.send_initial_metadata(INITIAL)
    for request in requests:
        yield request
        match script:
            case Script.ANSWER_EARLY:
                return
            case Script.HOLD_AFTER_FIRST:
                _hold(context)
            case Script.FAIL_EARLY:
                _fail(script, context)
            case Script.FAIL_AFTER_FIRST:
                deque(requests, maxlen=0)
                _fail(script, context)


def _fail(script: Script, context: grpc.ServicerContext) -> NoReturn:
    if script is Script.CRASH:
        raise RuntimeError("crashed as asked")
    context.abort(grpc.StatusCode.UNAVAILABLE if script is Script.UNAVAILABLE else CODE, DETAILS)


def _hold(context: grpc.ServicerContext) -> None:
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(_HELD)
    context.abort(grpc.StatusCode.CANCELLED, "the caller gave up; nobody hears this")
