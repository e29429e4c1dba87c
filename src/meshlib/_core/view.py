"""What a user may see of a call: a read-only view of its machine, for ``call.mesh`` and ``error.mesh``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from meshlib._core.call import Call
    from meshlib._core.status import Outcome

__all__ = ["AttemptView", "CallMesh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One attempt of a call.

    Args:
        host: address of the host it went to.
        code: name of its status code; None while it is in flight. One that lost against a hedge is CANCELLED.
        start: seconds after the start of the call.
        seconds: how long it took; None while it is in flight.
        why: ``"first"``, ``"retry"``, ``"hedge"`` or ``"refused"`` (the one before never left this process).
        sent: False where no byte of it reached a server.
        panic: hosts that outlier detection had ejected were used as well when this one was chosen.
        ejected: why its end had the host ejected; empty: it had not.
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
    """What a copy keeps of a call, which has locks and connections."""

    attempts: tuple[AttemptView, ...]
    local: bool
    verdict: str


@final
class CallMesh:
    """What the mesh did for one call. It looks at the call as it is when asked; a copy of it stays as it is."""

    __slots__ = ("_call", "_outcome")

    def __init__(self, call: "Call | _Copied", outcome: "Outcome | None" = None) -> None:
        self._call = call
        self._outcome = outcome

    @property
    def attempts(self) -> tuple[AttemptView, ...]:
        """Its attempts, oldest first."""
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
        """Whether the call was refused here and never sent."""
        if isinstance(self._call, _Copied):
            return self._call.local
        outcome = self._outcome
        return outcome is not None and outcome.local and not any(attempt.sent for attempt in self.attempts)

    @property
    def why(self) -> str:
        """Why its last failure was not tried again; empty for a call that did not fail."""
        return self._call.verdict

    def __reduce__(self) -> "tuple[type[CallMesh], tuple[_Copied]]":
        return CallMesh, (_Copied(self.attempts, self.local, self.why),)

    def __repr__(self) -> str:
        return f"<mesh {'local ' * self.local}{list(self.attempts)!r}>"
