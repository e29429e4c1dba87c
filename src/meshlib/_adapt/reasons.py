"""C-core's reason for a failing connection."""

from typing import Final

import grpc

__all__ = ["PROBE", "PROBE_SECONDS", "reason"]

PROBE: Final = "/meshlib.Probe/Why"
"""Method called on a failing connection for C-core's reason. It refuses the call at once and sends nothing."""

PROBE_SECONDS: Final = 1.0
"""Its deadline, in case the connection is up again; the server then answers UNIMPLEMENTED."""

_LAST: Final = "last error: "


def reason(code: grpc.StatusCode | None, details: str | None) -> str:
    """Return the reason from the end of such a call; empty if the connection no longer fails."""
    if code is not grpc.StatusCode.UNAVAILABLE or not details:
        return ""
    return details.rpartition(_LAST)[2].removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: ")
