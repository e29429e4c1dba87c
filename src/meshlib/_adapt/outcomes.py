"""Failed attempts of grpc as core values."""

import re
import time
from collections.abc import Iterable
from typing import Any, Final

import grpc

from meshlib._core.status import Outcome

__all__ = ["FORKED", "PUSHBACK_KEY", "failed", "pushback", "unconnected"]

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"

_NOT_CONNECTED: Final = (
    "connections to all backends failing; last error: ",
    "failed to connect to all addresses; last error: ",
)
"""Start of C-core's details for a call refused because the channel has no connection."""

_LOST_FIRST: Final = re.compile(r"\S+: subchannel lost all connections")
"""Details of a call queued on a connection that was lost; they begin with the address."""

_BROKEN: Final = re.compile(
    r"Stream removed|Socket closed|Connection reset|Broken pipe|recvmsg:|sendmsg:|Endpoint|GOAWAY received|"
    r"Delayed close|Received RST_STREAM|RST_STREAM|keepalive watchdog|ping timeout|Internal error from Core|"
    r"failed to connect|connections to all backends failing"
)
"""Start of the details if C-core lost the connection, or the stream, before a server answered."""

_PLUGIN: Final = re.compile(r"Getting metadata from plugin failed with error: |Illegal metadata$")
"""Details if a credentials plug-in raised, or returned metadata that cannot be sent."""

_UNSENDABLE: Final = re.compile(
    r"Invalid metadata$|CLIENT: Sent message larger than max |"
    r"Established channel does not have a sufficient security level to transfer call credential"
)
"""Details if C-core refused to send the request."""

FORKED: Final = "Channel closed due to fork"
"""grpc's details in the child of a fork, which must not repeat the calls of its parent."""

_EXPIRED: Final = frozenset({"Deadline Exceeded", "Stream removed (Deadline Exceeded)"})
"""C-core's details at the deadline."""

_CORE_BUG: Final = "Internal error from Core"
"""grpc.aio's details, not a server's, for a write that lost the race against the status."""


def failed(error: Any, address: str, trailing: Iterable[Any] | None) -> Outcome:
    """Return the outcome of an attempt that ended with ``error``.

    Args:
        error: raised by the attempt, a ``grpc.RpcError`` with ``code()`` and ``details()``.
        address: the target of the subchannel, ``"ipv4:10.0.0.7:50051"``; C-core names it if it could not connect.
        trailing: the trailing metadata.
    """
    code = error.code()
    details = error.details() or ""
    name = code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
    if unconnected(error) and _names(details, address):
        # The address is the proof: a server that passes on such an error names another.
        return Outcome(name, details, sent=False, refused=True, error=error)
    metadata = tuple(trailing or ())
    if not metadata and (_PLUGIN.match(details) or _UNSENDABLE.match(details)):
        return Outcome(name, details, sent=False, local=True, error=error)
    if name == "INTERNAL" and details.startswith(_CORE_BUG):
        name = "UNAVAILABLE"
    answered = True
    if name == "UNAVAILABLE":
        answered = not _BROKEN.match(details)
    elif name == "DEADLINE_EXCEEDED":
        answered = details not in _EXPIRED
    return Outcome(
        name,
        details,
        answered=answered,
        pushback=pushback(metadata),
        metadata=metadata,
        at=time.time(),
        error=error,
    )


def unconnected(error: Any) -> bool:
    """Whether C-core refused the attempt for lack of a connection, or a server passed on such an error."""
    details = error.details() or ""
    never_sent = details.startswith(_NOT_CONNECTED) or _LOST_FIRST.fullmatch(details) is not None
    return error.code() is grpc.StatusCode.UNAVAILABLE and never_sent


def _names(details: str, address: str) -> bool:
    """Whether C-core's details name this address: ``ipv4:10.0.0.7:80`` does not match ``ipv4:10.0.0.7:8080``."""
    return bool(address) and re.search(rf"(?<![\w.:-]){re.escape(address)}(?![\w.-])", details) is not None


def pushback(trailing: Iterable[Any] | None) -> float | None:
    """Return the seconds a server asks to wait before a retry; negative: it forbids one; None: not set.

    "If the value is negative or unparseable, then it will be seen as the server asking the client not to retry at all":
    gRFC A6. A number is decimal, without leading zeros, in 32 bits.
    """
    for key, value in trailing or ():
        if key == PUSHBACK_KEY:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            if re.fullmatch(r"0|[1-9][0-9]{0,9}", text) and int(text) < 2**31:
                return int(text) / 1000
            return -1.0
    return None
