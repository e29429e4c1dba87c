"""Properties of grpc's own objects: credentials, and calls wrapped by interceptors."""

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
"""cygrpc's credentials classes other than TLS."""


def transport(credentials: grpc.ChannelCredentials | None) -> str:
    """Return the protection of connections, in a word."""
    if credentials is None:
        return "plaintext"
    core: Any = getattr(credentials, "_credentials", None)
    while (inside := getattr(core, "_channel_credentials", None)) is not None:  # wrapped in call credentials
        core = inside
    return _OTHERS.get(type(core).__name__, "TLS")


def inner(call: object) -> object:
    """Return the call that grpc's interceptors wrapped; None if ``call`` is not such a wrapper."""
    module = sys.modules.get("grpc._interceptor")
    return getattr(call, "_call", None) if isinstance(call, getattr(module, "_UnaryOutcome", ())) else None
