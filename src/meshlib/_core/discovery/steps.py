"""The steps of a resolution, listed in errors so that a reader can repeat them by hand."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ResolveError", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One query and its result.

    Args:
        question: ``"SRV _grpc._tcp.svc-a.example.com."``
        source: where the query was sent: ``"10.0.0.2:53"``, ``"/etc/hosts"``, ``"the environment"``.
        answer: ``"3 records"``, ``"NXDOMAIN"``, ``"no answer within 1 s"``.
        ttl: seconds, if records were found. Not part of errors: it counts down in caches, and an error that changes
            each time would be logged each time.
    """

    question: str
    source: str
    answer: str
    ttl: float | None = None

    def __str__(self) -> str:
        return f"{self.question} from {self.source}: {self.answer}"


class ResolveError(Exception):
    """A resolution without endpoints. Its text appears in the call's ``details()`` and in the log.

    Args:
        reason: one clause: what is wrong and, if it can be fixed, how.
        steps: the queries made, in order.
        absent: it is certain that there is nothing (NXDOMAIN or no such record), as opposed to unknown.
        ttl: seconds for which that holds (RFC 2308).
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
    """Merge repeated steps with their count: three timeouts in a row are one line."""
    counted = Counter(map(str, steps))
    return [step if times == 1 else f"{step} ({times} times)" for step, times in counted.items()]
