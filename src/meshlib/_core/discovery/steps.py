"""What a resolution tried, step by step: the part of an error that lets a reader repeat it by hand."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ResolveError", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One question and what came of it.

    Args:
        question: ``"SRV _grpc._tcp.svc-a.example.com."``
        source: whom it was put to: ``"10.0.0.2:53"``, ``"/etc/hosts"``, ``"environment"``.
        answer: ``"3 records"``, ``"NXDOMAIN"``, ``"no answer within 1 s"``.
    """

    question: str
    source: str
    answer: str

    def __str__(self) -> str:
        return f"{self.question} at {self.source}: {self.answer}"


class ResolveError(Exception):
    """A resolution that named no endpoints. Its text is what the call's ``details()`` and the log say.

    Args:
        reason: one clause: what is wrong and, where somebody can cure it, how.
        steps: what was tried, in order.
        absent: every name server agrees that there is nothing (NXDOMAIN or no such record), as opposed to not knowing.
    """

    def __init__(self, reason: str, steps: Iterable[Step] = (), *, absent: bool = False) -> None:
        self.reason = reason
        self.steps = tuple(steps)
        self.absent = absent
        super().__init__(reason, self.steps, absent)

    def __str__(self) -> str:
        return f"{self.reason} ({'; '.join(_told(self.steps))})" if self.steps else self.reason


def _told(steps: Iterable[Step]) -> list[str]:
    """A question that was repeated is told once, with its number: three time-outs in a row are one line."""
    counted: dict[Step, int] = {}
    for step in steps:
        counted[step] = counted.get(step, 0) + 1
    return [str(step) if times == 1 else f"{step} ({times} times)" for step, times in counted.items()]
