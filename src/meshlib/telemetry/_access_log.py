"""The optional access log: one line per call, with Envoy's response flags."""

import logging
from typing import Final

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._core.call_record import CallRecord
from meshlib._core.status import Outcome

__all__ = ["FLAGS", "flags", "write"]

_log: Final = logging.getLogger("meshlib.access")
_deferred: Final = DeferredLogger("meshlib.access")

FLAGS: Final = {
    "UH": "no host was available",
    "UO": "the circuit breaker rejected the call",
    "UF": "the connection failed, or was lost before the request was sent",
    "UC": "the connection broke",
    "UT": "the deadline passed",
    "URX": "the call failed and all attempts were used",
    "DC": "the application cancelled the call or closed the channel",
}
"""The supported response flags of Envoy, and their meanings."""


def write(call: CallRecord, outcome: Outcome, seconds: float, target: str, *, deferred: bool) -> None:
    """Log the end of a call at INFO: never payloads, metadata or the status message.

    ``deferred``: handlers run on the log thread.
    """
    if not _log.isEnabledFor(logging.INFO):
        return
    attempts = call.attempts
    host = attempts[-1].host.endpoint.address if attempts else "-"
    shown = flags(call, outcome)
    log = _deferred if deferred else _log
    log.info(
        "%s: %s: duration=%.6f s, attempts=%d, host=%s, flags=%s",
        call.method[1:],
        outcome.code,
        seconds,
        len(attempts),
        host,
        shown or "-",
        extra={
            "meshlib.target": target,
            "meshlib.method": call.method[1:],
            "meshlib.code": outcome.code,
            "meshlib.seconds": seconds,
            "meshlib.attempts": len(attempts),
            "meshlib.host": host,
            "meshlib.flags": shown,
        },
    )


def flags(call: CallRecord, outcome: Outcome) -> str:
    """Return Envoy's response flags of a call; empty: no problem."""
    if outcome.code == "OK":
        return ""
    found = []
    if call.cluster.breaker.says(outcome):
        found.append("UO")
    elif outcome.code == "DEADLINE_EXCEEDED" and not outcome.answered:
        found.append("UT")
    elif outcome.code == "CANCELLED" and outcome.local:
        found.append("DC")
    elif outcome.code == "UNAVAILABLE" and not outcome.answered:
        found.append("UH" if outcome.local else "UF" if not outcome.sent else "UC")
    if call.used_up:
        found.append("URX")
    return ",".join(found)
