"""What a resolution tried, step by step: the part of an error that lets a reader repeat it by hand."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ResolveError", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One question and what came of it.

    Args:
        question: ``"SRV _grpc._tcp.svc-a.example.com."``
        source: whom it was put to: ``"10.0.0.2:53"``, ``"/etc/hosts"``, ``"the environment"``.
        answer: ``"3 records"``, ``"NXDOMAIN"``, ``"no answer within 1 s"``.
        ttl: seconds, where records were found. Not told in errors: it counts down in caches, and an error that changes
            with each look would be logged with each look.
    """

    question: str
    source: str
    answer: str
    ttl: float | None = None

    def __str__(self) -> str:
        return f"{self.question} from {self.source}: {self.answer}"


class ResolveError(Exception):
    """A resolution that named no endpoints. Its text is what the call's ``details()`` and the log say.

    Args:
        reason: one clause: what is wrong and, where somebody can cure it, how.
        steps: what was tried, in order.
        absent: it is certain that there is nothing (NXDOMAIN or no such record), as opposed to not known.
        ttl: for how many seconds that holds (RFC 2308).
    """

    def __init__(self, reason: str, steps: Iterable[Step] = (), *, absent: bool = False, ttl: float = 0.0) -> None:
        self.reason = reason
        self.steps = tuple(steps)
        self.absent = absent
        self.ttl = ttl
        super().__init__(reason)

    def __str__(self) -> str:
        return f"{self.reason} ({'; '.join(_told(self.steps))})" if self.steps else self.reason


def _told(steps: Iterable[Step]) -> list[str]:
    """A question that was repeated is told once, with its number: three time-outs in a row are one line."""
    counted = Counter(map(str, steps))
    return [step if times == 1 else f"{step} ({times} times)" for step, times in counted.items()]
