"""Read-only view of a call and its attempts: ``call.mesh`` and ``error.mesh``."""

from dataclasses import dataclass
from typing import NamedTuple, final

from meshlib._core.call_record import CallRecord
from meshlib._core.status import Outcome

__all__ = ["AttemptView", "CallMesh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """Attempt of a call.

    Args:
        host: address of its host.
        code: name of its status code; None while in flight. CANCELLED if another hedge won.
        start: seconds from the start of the call.
        seconds: duration; None while in flight.
        why: ``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"`` (the previous attempt was not sent).
        sent: False if no byte of it reached a server.
        panic: the host was picked in panic mode, when ejected hosts were used too.
        ejected: why its end ejected the host; empty if it did not.
    """

    host: str
    code: str | None
    start: float
    seconds: float | None
    why: str
    sent: bool
    panic: bool = False
    ejected: str = ""


class _Copied(NamedTuple):
    """Copied state of a call, without its locks and connections."""

    attempts: tuple[AttemptView, ...]
    local: bool
    verdict: str


@final
class CallMesh:
    """Attempts of one call, and why it failed. Always reflects the current state of the call; a copy is frozen."""

    __slots__ = ("_call", "_outcome")

    def __init__(self, call: CallRecord | _Copied, outcome: Outcome | None = None) -> None:
        self._call = call
        self._outcome = outcome

    @property
    def attempts(self) -> tuple[AttemptView, ...]:
        """Attempts, oldest first."""
        call = self._call
        if isinstance(call, _Copied):
            return call.attempts
        return tuple(
            AttemptView(
                host=attempt.host.endpoint.address,
                code=attempt.code,
                start=attempt.start - call.begun,
                seconds=attempt.seconds,
                why=attempt.why,
                sent=attempt.outcome is None or attempt.outcome.sent,
                panic=attempt.panic,
                ejected=attempt.ejected,
            )
            for attempt in call.attempts
        )

    @property
    def local(self) -> bool:
        """Whether the call was rejected in this process and never sent."""
        if isinstance(self._call, _Copied):
            return self._call.local
        outcome = self._outcome
        return outcome is not None and outcome.local and not any(attempt.sent for attempt in self.attempts)

    @property
    def why(self) -> str:
        """Why the last failure was not retried; empty if the call did not fail."""
        return self._call.verdict

    def __reduce__(self) -> "tuple[type[CallMesh], tuple[_Copied]]":
        return CallMesh, (_Copied(self.attempts, self.local, self.why),)

    def __repr__(self) -> str:
        return f"<mesh {'local ' * self.local}{list(self.attempts)!r}>"
