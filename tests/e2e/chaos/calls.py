"""The calls of a chaos run, their orders and outcomes. The same for threads and for asyncio."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from meshlib.testing import echo

KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
METHODS: Final = dict(zip(KINDS, (echo.UNARY, echo.SERVER_STREAM, echo.CLIENT_STREAM, echo.BIDI_STREAM), strict=True))
HASTY: Final = (0.03, 0.1, 0.3)
"""Deadlines that may pass while a faulty host is detected, seconds."""


@dataclass(frozen=True, slots=True)
class Order:
    """One call that a caller must make."""

    number: int
    kind: str
    requests: tuple[bytes, ...]
    """A call with one request uses the first."""
    pace: float
    """Seconds between the requests of a stream."""
    delay: float
    """Milliseconds for which the handler holds the call."""
    timeout: float
    hasty: bool
    """Whether the deadline is too short for the cost of a faulty host."""
    wait_for_ready: bool
    cancel: str
    """``"at once"``, ``"after a message"`` or ``""``, never."""

    @property
    def id(self) -> str:
        """Its id in the servers' journals."""
        return f"call-{self.number}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The order for the server."""
        return (
            (echo.REQUEST_ID, self.id),
            (echo.DELAY_MS, str(self.delay)),
            (echo.COUNT, str(len(self.requests))),
        )

    @property
    def expected(self) -> list[bytes]:
        """The answer of the echo service."""
        one, all_ = self.requests[:1], self.requests
        answers = {"unary_unary": one, "unary_stream": one * len(all_), "stream_unary": (b"".join(all_),)}
        return list(answers.get(self.kind, all_))


@dataclass(slots=True)
class Record:
    """One call, as its caller saw it."""

    order: Order
    began: float
    """``time.monotonic()``."""
    ended: float = 0.0
    code: str = ""
    details: str = ""
    messages: list[bytes] = field(default_factory=list)
    attempts: tuple[Any, ...] = ()
    """``call.mesh.attempts``."""
    told: int = 0
    """Number of calls of its done-callback."""

    @property
    def seconds(self) -> float:
        """Duration of the call."""
        return self.ended - self.began

    def end(self, code: Any, details: str | None, mesh: Any) -> None:
        """Record the end of the call for its caller."""
        self.ended = time.monotonic()
        self.code, self.details, self.attempts = code.name, details or "", mesh.attempts

    def tell(self, _: object = None) -> None:
        """The done-callback."""
        self.told += 1

    def __str__(self) -> str:
        order = self.order
        return (
            f"{order.id} {order.kind} {self.code} {self.details!r} after {self.seconds:.3f} s of {order.timeout} s, "
            f"{len(self.messages)} of {len(order.expected)} messages, told {self.told} times, "
            f"cancel={order.cancel!r}, attempts: {list(self.attempts)}"
        )


def orders(rng: Random, first: int, *, patience: float, wait: bool) -> Iterator[Order]:
    """Endless calls, numbered from ``first``.

    Args:
        rng: draws them.
        first: number of the first.
        patience: the deadline of most.
        wait: some of them wait for ready.
    """
    number = first
    while True:
        size = rng.choice((1, 10, 1000))
        hasty = rng.random() < 0.15
        yield Order(
            number=number,
            kind=rng.choice(KINDS),
            requests=tuple(b"%d.%d " % (number, index) + b"x" * size for index in range(rng.choice((1, 3, 20)))),
            pace=rng.choice((0.0, 0.0, 0.002)),
            delay=rng.choice((0.0, 0.0, 5.0, 30.0)),
            timeout=rng.choice(HASTY) if hasty else patience,
            hasty=hasty,
            wait_for_ready=wait and rng.random() < 0.2,
            cancel=rng.choice(("at once", "after a message")) if rng.random() < 0.05 else "",
        )
        number += 1


def wrong(record: Record, *, guarded: bool, stopped: bool, slack: float, executed: Counter[str]) -> str:
    """The violation of a call; empty if there is none.

    Args:
        record: the call.
        guarded: whether one host was healthy all the time.
        stopped: whether a server was stopped: grpc's own then end some calls with CANCELLED.
        slack: seconds by which a call may be late.
        executed: the requests that the servers ran.
    """
    order, code = record.order, record.code
    sent = sum(attempt.sent for attempt in record.attempts)
    if record.told != 1:
        return f"its end was told {record.told} times"
    if record.seconds > order.timeout + slack:
        return f"it ended more than {slack:.1f} s after its deadline"
    if record.messages != order.expected[: len(record.messages)]:
        return f"it got other messages: {record.messages}"
    if executed[order.id] > sent:
        return f"it ran {executed[order.id]} times, of {sent} attempts that were sent"
    if code == "OK":
        return "" if record.messages == order.expected else "it is OK, and messages are missing"
    if any(attempt.code is None for attempt in record.attempts) and code != "CANCELLED" and not record.messages:
        # A dropped attempt of a cancelled call may still be ending.
        return "an attempt has no end"
    if code == "CANCELLED" and order.cancel:
        return ""
    return _untrue(record, stopped) or _broken(record, guarded)


def _untrue(record: Record, stopped: bool) -> str:
    """An unexplained status."""
    code, last = record.code, record.attempts[-1] if record.attempts else None
    if code == "UNAVAILABLE" or (code == "CANCELLED" and stopped):
        return ""
    if code == "DEADLINE_EXCEEDED":
        if record.seconds >= record.order.timeout - 0.01 or (last is not None and last.code == code):
            return ""
        return "its deadline had not passed, nor was its last attempt out of time"
    return f"nothing that happened is {code}"


def _broken(record: Record, guarded: bool) -> str:
    """A failure that the mesh has promised to prevent."""
    committed = bool(record.messages)
    if not guarded or record.order.hasty or committed:
        return ""
    return "it failed, though a host was well"
