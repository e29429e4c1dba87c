"""Methods that a test server serves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import grpc

from meshlib.testing import echo

__all__ = ["Services"]


@dataclass
class _Details:
    """Call details for generic handlers."""

    method: str
    invocation_metadata: tuple[Any, ...] = ()


class Services:
    """Records the methods registered with a server from now on."""

    def __init__(self, server: grpc.Server) -> None:
        self._generic: list[grpc.GenericRpcHandler] = []
        self._names = {echo.UNARY, echo.SERVER_STREAM, echo.CLIENT_STREAM, echo.BIDI_STREAM}
        generic: Any = server.add_generic_rpc_handlers
        named: Any = getattr(server, "add_registered_method_handlers", None)
        hooks: Any = server

        def add_generic(handlers: Iterable[grpc.GenericRpcHandler]) -> None:
            handlers = tuple(handlers)
            self._generic += handlers
            generic(handlers)

        def add_named(service: str, handlers: Mapping[str, Any]) -> None:
            self._names |= {f"/{service}/{method}" for method in handlers}
            named(service, handlers)

        hooks.add_generic_rpc_handlers = add_generic
        if named is not None:
            hooks.add_registered_method_handlers = add_named

    def check(self, method: str) -> None:
        """Reject a method that this server does not have.

        Raises:
            ValueError: it is malformed, or no handler has it.
        """
        if not isinstance(method, str) or not method.startswith("/") or method.count("/") != 2 or method.endswith("/"):
            raise ValueError(f"method must be written '/package.Service/Method', got {method!r}{self._close(method)}")
        if method not in self._names and all(handler.service(_Details(method)) is None for handler in self._generic):
            raise ValueError(f"no service of this server has the method {method!r}{self._close(method)}")

    def _close(self, method: object) -> str:
        found = get_close_matches(str(method), self._names, n=1)
        return f"; did you mean {found[0]!r}?" if found else ""
