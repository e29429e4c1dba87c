"""Why a connection fails, in C-core's words."""

from typing import Final

import grpc

__all__ = ["PROBE", "PROBE_SECONDS", "reason"]

PROBE: Final = "/meshlib.Probe/Why"
"""What is called on a connection that fails, for C-core to say why. It refuses the call at once and sends nothing."""

PROBE_SECONDS: Final = 1.0
"""Its deadline, should the connection have come up meanwhile; the server then answers UNIMPLEMENTED."""

_LAST: Final = "last error: "


def reason(code: grpc.StatusCode | None, details: str | None) -> str:
    """What the end of such a call says; empty: nothing, since the connection is not failing any more."""
    if code is not grpc.StatusCode.UNAVAILABLE or not details:
        return ""
    return details.rpartition(_LAST)[2].removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: ")
