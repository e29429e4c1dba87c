"""Outcome of an attempt or a call: the name of a gRPC status code, and the facts that retries depend on."""

from collections.abc import Sequence
from typing import Final, final

__all__ = ["CODES", "OK", "Outcome", "local"]

CODES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""Names of the gRPC status codes; a code's number is its index."""


@final
class Outcome:
    """Outcome of an attempt, or of a call.

    Args:
        code: name of the status code.
        details: the status message.
        sent: False only if provably no server has processed it.
        refused: no server has processed it: grpc did not send it because the host has no connection, or the host
            refused it (RFC 9113 8.7); implies not sent.
        local: decided in this process, not by a server; not charged to the host.
        answered: decided by a server; False if the connection broke or the time ran out.
        pushback: seconds from the ``grpc-retry-pushback-ms`` trailer; negative: the server forbids a retry (gRFC A6).
        metadata: the trailing metadata.
        at: wall clock of its end, seconds since 1970: to interpret a header that contains a point in time.
        error: the shell's error for the caller; opaque to the core.
        more: added to the details in the text of the error, such as addresses of hosts, which applications must not
            pass on with the details.
    """

    __slots__ = (
        "answered",
        "at",
        "code",
        "details",
        "error",
        "local",
        "metadata",
        "more",
        "pushback",
        "refused",
        "sent",
    )

    def __init__(
        self,
        code: str,
        details: str = "",
        *,
        sent: bool = True,
        refused: bool = False,
        local: bool = False,
        answered: bool = True,
        pushback: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        at: float = 0.0,
        error: object = None,
        more: str = "",
    ) -> None:
        self.code = code
        self.details = details
        self.sent = sent and not refused
        self.refused = refused
        self.local = local
        self.answered = answered and not refused and not local
        self.pushback = pushback
        self.metadata = metadata
        self.at = at
        self.error = error
        self.more = more

    def __repr__(self) -> str:
        marks = [name for name in ("refused", "local") if getattr(self, name)] + ([] if self.sent else ["unsent"])
        text = f"{self.code} {self.details!r}" if self.details else self.code
        return f"<Outcome {' '.join([text, *marks])}>"


OK: Final = Outcome("OK")


def local(code: str, details: str, more: str = "") -> Outcome:
    """Create an outcome decided in this process, before anything was sent."""
    return Outcome(code, details, sent=False, local=True, more=more)
