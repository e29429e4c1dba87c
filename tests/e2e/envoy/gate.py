"""A method whose calls fail on command, and not before, so that the calls in flight at that moment are determined."""

import math
import threading
from typing import Any

import grpc

FAIL = "/meshlib.tests.Gate/Fail"
_SECONDS = 20.0


class Gate:
    """Holds every attempt of ``FAIL`` until its turn to end as UNAVAILABLE."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        with self._changed:
            self._arrived = 0
            self._released: float = 0

    @property
    def arrived(self) -> int:
        """Number of attempts that have arrived."""
        with self._changed:
            return self._arrived

    def release(self, n: float = math.inf) -> None:
        """Let the first ``n`` fail, including later arrivals."""
        with self._changed:
            self._released = n
            self._changed.notify_all()

    def add_to_server(self, server: grpc.Server) -> None:
        """Serve the method."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Fail": grpc.unary_unary_rpc_method_handler(self._fail)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("meshlib.tests.Gate", handlers),))

    def _fail(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        with self._changed:
            self._arrived += 1
            turn = self._arrived
            self._changed.notify_all()
            self._changed.wait_for(lambda: turn <= self._released, _SECONDS)
        context.abort(grpc.StatusCode.UNAVAILABLE, "released")
