"""What grpc's own objects say of themselves: credentials, and calls that interceptors have wrapped."""

import sys
from typing import Any, Final

import grpc

__all__ = ["inner", "transport"]

_OTHERS: Final = {
    "InsecureChannelCredentials": "plaintext",
    "LocalChannelCredentials": "local",
    "ALTSChannelCredentials": "ALTS",
    "XDSChannelCredentials": "xDS",
}
"""cygrpc's classes that do not stand for TLS."""


def transport(credentials: grpc.ChannelCredentials | None) -> str:
    """How connections are protected, in a word."""
    if credentials is None:
        return "plaintext"
    core: Any = getattr(credentials, "_credentials", None)
    while (inside := getattr(core, "_channel_credentials", None)) is not None:  # with call credentials around them
        core = inside
    return _OTHERS.get(type(core).__name__, "TLS")


def inner(call: object) -> object:
    """The call that grpc's interceptors have wrapped, None if ``call`` is not such a wrapper of grpc's."""
    module = sys.modules.get("grpc._interceptor")
    return getattr(call, "_call", None) if isinstance(call, getattr(module, "_UnaryOutcome", ())) else None
