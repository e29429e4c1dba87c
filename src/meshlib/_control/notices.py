"""Notices for operators when a channel is made, logged once."""

import logging
import os
from collections.abc import Mapping
from typing import Final

import grpc

from meshlib._adapt.grpcio import lost
from meshlib._adapt.options import Options
from meshlib._core.target import Target

__all__ = ["announce", "unheeded"]

_log = logging.getLogger("meshlib")

PROXY_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables that C-core reads, in its order."""

_told: set[str] = set()


def announce(target: Target, options: Options, *, secure: bool, environ: Mapping[str, str] = os.environ) -> None:
    """Log that a channel is in plaintext, that a proxy is not used, and which private names of grpcio are missing.

    Once per target, per proxy and per process.
    """
    if _first("grpcio") and (features := lost()):
        _log.info(
            "grpcio %s: private names missing or different, slower public ones used: %s",
            grpc.__version__,
            "; ".join(features),
        )
    if not secure and target.scheme != "unix" and _first(f"plaintext {target.text}"):
        _log.info(
            "%s: connections are plaintext; pass credentials=grpc.ssl_channel_credentials() to encrypt", target.text
        )
    if any(name in ("grpc.enable_http_proxy", "grpc.http_proxy") for name, _ in options):
        return
    variable = next((name for name in PROXY_VARIABLES if environ.get(name)), None)
    if variable is not None and not target.native and _first(f"proxy {variable}"):
        _log.warning(
            "%s: proxy ignored: meshlib connects to IP addresses, which host names in no_proxy do not match; pass "
            'options=[("grpc.enable_http_proxy", 1)] to use the proxy',
            variable,
        )


def unheeded(target: Target, name: str, value: object, reason: str) -> None:
    """Log that an option has no effect, once per target and option."""
    if _first(f"option {name} {target.text}"):
        _log.warning("%s: option (%r, %r) %s", target.text, name, value, reason)


def _first(what: str) -> bool:
    if what in _told:
        return False
    _told.add(what)
    return True
