"""Everything that can happen to a call, as a table: the server's behaviour, the caller's arguments and actions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

import grpc
from tests.e2e.dropin.observation import Observation
from tests.e2e.dropin.service import Script

LONG = 20.0  # seconds: a deadline that no test reaches
SHORT = 0.2


class Caller(Enum):
    """The caller's action on the call."""

    FINISHES = auto()
    CANCELS_AT_ONCE = auto()
    CANCELS_INSIDE = auto()
    CANCELS_AFTER_FIRST = auto()
    CLOSES_BEFORE = auto()
    CLOSES_INSIDE = auto()
    CLOSES_AFTER_FIRST = auto()
    ABANDONS = auto()
    ABANDONS_AFTER_FIRST = auto()

    @property
    def reads_first(self) -> bool:
        """Whether one message is read before: only a call with a stream of responses can."""
        return self.name.endswith("AFTER_FIRST")

    @property
    def abandons(self) -> bool:
        """Whether the call object is dropped."""
        return self.name.startswith("ABANDONS")

    @property
    def cancels(self) -> bool:
        """Whether it needs a call object in hand, which the blocking forms do not give."""
        return self.name.startswith("CANCELS")

    @property
    def closes(self) -> bool:
        """Whether the channel is closed while the call is in flight."""
        return self in (Caller.CLOSES_INSIDE, Caller.CLOSES_AFTER_FIRST)


class Requests(Enum):
    """How a stream of requests continues after its messages."""

    END = auto()
    WAIT = auto()
    RAISE = auto()


class Serves(Enum):
    """Whether the server is up."""

    ALWAYS = auto()
    LATER = auto()
    NEVER = auto()


class Reaches(Enum):
    """The stage that a call must have reached when its deadline passes."""

    NOBODY = auto()
    SERVER = auto()
    CALLER = auto()
    """The caller has received everything that the server sends before it holds the call."""


def failing_codec(_: Any) -> Any:
    """A serializer or deserializer."""
    raise RuntimeError("this codec always fails")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row. Its kinds of call are all those it can happen to."""

    name: str
    ends: frozenset[str]
    """The end of the call in grpc, to check that each row matches its name; `Observation.end`."""
    script: Script = Script.ECHO
    caller: Caller = Caller.FINISHES
    serves: Serves = Serves.ALWAYS
    metadata: Any = ()
    timeout: Any = LONG
    reaches: Reaches = Reaches.NOBODY
    wait_for_ready: bool | None = None
    credentials: Callable[[], grpc.CallCredentials] | None = None
    """Factory: no grpc object may exist before its test."""
    compression: grpc.Compression | None = None
    requests: tuple[bytes, ...] = (b"a", b"", b"ccc")
    then: Requests = Requests.END
    serializer: Callable[[Any], bytes] | None = None
    deserializer: Callable[[bytes], Any] | None = None
    streams_requests: bool = False
    """It needs a stream of requests."""
    several_attempts: bool = False
    """A mesh retries, and may say so in the details."""
    headers_race: bool = False
    """grpc has a race: whether the server receives the call, or whether its headers arrive before its status."""

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed when the call begins."""
        return isinstance(self.timeout, float) and self.timeout <= 0

    def with_more_time(self, arity: str, seen: Observation) -> "Scenario | None":
        """The same with twice the time, if the deadline passed too early; None: it did not.

        The time to that point depends on the machine, and a deadline cannot be extended once the call has begun. The
        server's record decides, not the call's end.
        """
        if self.reaches is Reaches.NOBODY or self.timeout >= LONG:
            return None
        if self.reaches is Reaches.SERVER:
            came = seen.request_metadata is not None
        else:
            came = bool(seen.messages if arity.endswith("stream") else seen.headers)
        return None if came else replace(self, timeout=2 * self.timeout)

    def comparable(self, seen: Observation) -> Observation:
        """The part of `seen` that must be equal."""
        if self.several_attempts or seen.code is grpc.StatusCode.DEADLINE_EXCEEDED or self._late(seen):
            seen = seen.but_for_details()
        return seen.but_for_headers() if self.headers_race else seen

    def _late(self, seen: Observation) -> bool:
        """Whether its deadline passed: then a mesh adds method and target."""
        return seen.raised is not None and seen.raised.code is grpc.StatusCode.DEADLINE_EXCEEDED

    def __str__(self) -> str:
        return self.name


def _row(name: str, *ends: str, **fields: Any) -> Scenario:
    return Scenario(name=name, ends=frozenset(ends), **fields)


SCENARIOS = (
    _row("ok", "OK"),
    _row("ok with metadata", "OK", metadata=(("x-key", "1"), ("x-key", "2"), ("x-key-bin", b"\x00\xff"))),
    _row("ok without a deadline", "OK", timeout=None),
    _row("ok through codecs", "OK", serializer=lambda text: text[::-1] + b"!", deserializer=lambda data: (data,)),
    _row("ok of no message", "OK", requests=(), streams_requests=True, headers_race=True),
    _row(
        "ok of a message before the requests end",
        "OK",
        script=Script.ANSWER_EARLY,
        requests=(b"a",),
        then=Requests.WAIT,
        streams_requests=True,
    ),
    _row("ok compressed", "OK", compression=grpc.Compression.Gzip),
    # --- the server fails it
    _row("error", "FAILED_PRECONDITION", script=Script.FAIL),
    _row("error after the first message", "FAILED_PRECONDITION", script=Script.FAIL_AFTER_FIRST),
    _row(
        "error before the requests end",
        "FAILED_PRECONDITION",
        script=Script.FAIL_EARLY,
        requests=(b"a",),
        then=Requests.WAIT,
        streams_requests=True,
    ),
    _row("crash of the handler", "UNKNOWN", script=Script.CRASH),
    _row("error that is retried", "UNAVAILABLE", script=Script.UNAVAILABLE, several_attempts=True),
    # --- the caller cancels
    _row(
        "cancelled at once",
        "CANCELLED",
        "CancelledError",
        script=Script.HOLD,
        caller=Caller.CANCELS_AT_ONCE,
        headers_race=True,
    ),
    _row("cancelled inside", "CANCELLED", script=Script.HOLD, caller=Caller.CANCELS_INSIDE),
    _row(
        "cancelled after the first message",
        "CANCELLED",
        script=Script.HOLD_AFTER_FIRST,
        caller=Caller.CANCELS_AFTER_FIRST,
    ),
    _row("abandoned", "OK", script=Script.HOLD, caller=Caller.ABANDONS),
    _row("abandoned after the first message", "OK", script=Script.HOLD_AFTER_FIRST, caller=Caller.ABANDONS_AFTER_FIRST),
    # --- time
    _row("deadline", "DEADLINE_EXCEEDED", script=Script.HOLD, timeout=SHORT, reaches=Reaches.SERVER),
    _row(
        "deadline after the first message",
        "DEADLINE_EXCEEDED",
        script=Script.HOLD_AFTER_FIRST,
        timeout=SHORT,
        reaches=Reaches.CALLER,
    ),
    _row("deadline in the past", "DEADLINE_EXCEEDED", script=Script.HOLD, timeout=-1.0, headers_race=True),
    _row("deadline of zero", "DEADLINE_EXCEEDED", script=Script.HOLD, timeout=0.0, headers_race=True),
    # --- the channel
    _row("closed channel", "ValueError", "UsageError", caller=Caller.CLOSES_BEFORE),
    _row("channel closed inside", "CANCELLED", script=Script.HOLD, caller=Caller.CLOSES_INSIDE),
    _row(
        "channel closed after the first message",
        "CANCELLED",
        script=Script.HOLD_AFTER_FIRST,
        caller=Caller.CLOSES_AFTER_FIRST,
    ),
    _row("nobody serves", "UNAVAILABLE", serves=Serves.NEVER, several_attempts=True),
    _row("wait_for_ready: served later", "OK", serves=Serves.LATER, wait_for_ready=True),
    _row(
        "wait_for_ready: never served",
        "DEADLINE_EXCEEDED",
        serves=Serves.NEVER,
        wait_for_ready=True,
        timeout=SHORT,
        several_attempts=True,
    ),
    _row("wait_for_ready: served all along", "OK", wait_for_ready=True),
    # --- the caller's arguments are wrong
    _row("metadata: upper case key", "INTERNAL", "InternalError", metadata=(("X-Upper", "1"),)),
    _row("metadata: empty key", "INTERNAL", "InternalError", metadata=(("", "1"),)),
    _row("metadata: value beyond ASCII", "INTERNAL", "InternalError", metadata=(("x-key", "é"),)),
    _row("metadata: value of a wrong type", "TypeError", metadata=(("x-key", 1),)),
    _row("metadata: text in a binary key", "TypeError", metadata=(("x-key-bin", "text"),)),
    _row("metadata: no pair", "ValueError", metadata=(("x-key",),)),
    _row("metadata: no iterable", "TypeError", metadata=42),
    _row("timeout of a wrong type", "TypeError", timeout="1"),
    _row(
        "credentials without security",
        "UNAUTHENTICATED",
        "UsageError",
        credentials=lambda: grpc.access_token_call_credentials("token"),
        headers_race=True,
    ),
    _row("serializer raises", "INTERNAL", "OK", serializer=failing_codec, headers_race=True),
    _row("deserializer raises", "INTERNAL", "OK", deserializer=failing_codec),
    _row(
        "request iterator raises",
        "UNKNOWN",
        "CANCELLED",
        script=Script.HOLD,
        then=Requests.RAISE,
        streams_requests=True,
    ),
)
