"""How an attempt or a call ended, as the core sees it: the name of a gRPC status code and what may be done about it."""

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
"""The names of the gRPC status codes; a code's number is its index."""


@final
class Outcome:
    """The end of an attempt, or of a call.

    Args:
        code: name of the status code.
        details: the status message.
        sent: False only where it is proved that no server has processed it.
        refused: no server has processed it: the host has no connection, so grpc did not send it, or the host said so
            (RFC 9113 8.7); implies not sent.
        local: made here: no server said it, and it says nothing of the host.
        answered: a server said it; False where the connection broke or the time ran out.
        pushback: seconds from the ``grpc-retry-pushback-ms`` trailer; negative: the server forbids a retry (gRFC A6).
        metadata: the trailing metadata that came with it.
        at: the wall clock, seconds since 1970, when it ended: to understand a header that names a point in time.
        error: what the shell will show its caller for it; the core passes it on unseen.
        more: what the text of the error adds to the details, such as addresses of hosts, which applications are not to
            hand on with the details.
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
    """An outcome decided in this process, before anything was sent."""
    return Outcome(code, details, sent=False, local=True, more=more)
