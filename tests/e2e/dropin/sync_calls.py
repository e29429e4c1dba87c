"""One call through a `grpc` channel, or its replacement, in every form, observed to its end."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.experimental
from tests.e2e.dropin.observation import Failure, Observation, pairs, plain
from tests.e2e.dropin.scenarios import Caller, Requests, Scenario, Serves, failing_codec
from tests.e2e.dropin.service import METHODS, SCRIPT, has_none, has_one, scripted_server
from tests.e2e.dropin.subjects import Subject

from meshlib.testing import Server

REQUEST = b"request"
_WAIT = 10.0  # seconds after which a wait fails
_LATER = 0.1  # seconds after the invocation at which a late server comes up
_QUICK_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100),)


@dataclass(frozen=True, slots=True)
class Kind:
    """A form of call."""

    arity: str
    form: str = "call"
    """`call` and `with_call` block until the end, `future` and `stream` give a call object."""
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)

    @property
    def blocks(self) -> bool:
        """Whether the caller has no call object while the call runs."""
        return self.form in ("call", "with_call")

    def is_told_of_end(self, scenario: Scenario) -> bool:
        """Whether grpc calls the callbacks: not if it ends the call itself and leaves C-core's status unread."""
        single_threaded = bool(self.options)
        return not (single_threaded and scenario.caller.cancels) and not (
            self.form == "stream" and scenario.deserializer is failing_codec
        )

    def fits(self, scenario: Scenario) -> bool:
        """Whether this can happen to a call of this kind."""
        if self.blocks and (scenario.caller.cancels or scenario.caller.abandons):
            return False
        if scenario.caller.reads_first and self.form != "stream":
            return False
        return self.arity.startswith("stream") or not scenario.streams_requests

    def __str__(self) -> str:
        return f"{self.arity}.{self.form}" + ("-single-threaded" if self.options else "")


KINDS = (
    Kind("unary_unary"),
    Kind("unary_unary", "with_call"),
    Kind("unary_unary", "future"),
    Kind("unary_stream", "stream"),
    Kind("unary_stream", "stream", ((grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),)),
    Kind("stream_unary"),
    Kind("stream_unary", "with_call"),
    Kind("stream_unary", "future"),
    Kind("stream_stream", "stream"),
)


def observe(kind: Kind, scenario: Scenario, subject: Subject) -> Observation:
    """Run `scenario` on a call of this kind on a new channel to a new server."""
    seen = _observe(kind, scenario, subject)
    while (longer := scenario.with_more_time(kind.arity, seen)) is not None:
        scenario = longer
        seen = _observe(kind, scenario, subject)
    return seen


def _observe(kind: Kind, scenario: Scenario, subject: Subject) -> Observation:
    with scripted_server() as server:
        if scenario.serves is not Serves.ALWAYS:
            server.stop()
        with subject.insecure_channel(server.address, (*_QUICK_RECONNECT, *kind.options)) as channel:
            return _Caller(kind, scenario, channel, server).observe()


class _Caller:
    def __init__(self, kind: Kind, scenario: Scenario, channel: grpc.Channel, server: Server) -> None:
        self.kind, self.scenario, self.channel, self.server = kind, scenario, channel, server
        self.release = threading.Event()
        self.seen: dict[str, Any] = {}
        self.messages: list[Any] = []

    def observe(self) -> Observation:
        multicallable = getattr(self.channel, self.kind.arity)(
            METHODS[self.kind.arity],
            request_serializer=self.scenario.serializer,
            response_deserializer=self.scenario.deserializer,
        )
        if self.scenario.caller is Caller.CLOSES_BEFORE:
            self.channel.close()
        try:
            with self._meanwhile():
                self._run(multicallable)
        finally:
            self.release.set()
        if self.server.received:
            self.seen["request_metadata"] = self.server.received[0].metadata
        return Observation(messages=tuple(self.messages), **self.seen)

    def _run(self, multicallable: Any) -> None:
        call: Any = None
        try:
            if self.kind.form == "call":
                self.messages.append(self._invoke(multicallable))
            elif self.kind.form == "with_call":
                response, call = self._invoke(multicallable.with_call)
                self.messages.append(response)
            else:
                call = self._invoke(multicallable.future if self.kind.form == "future" else multicallable)
        except Exception as error:  # noqa: BLE001 - any exception is compared
            self.seen.update(raised=Failure.of(error), where="invoke")
        if call is None:
            return
        if self.kind.blocks:
            self._look(call)
            return
        # A callback would keep the call object alive, in grpc and in any replacement.
        counts = None if self.scenario.caller.abandons else _Callbacks(call)
        self._act(call)
        if counts is None:
            del call
            gc.collect()
            self.server.wait_until(has_none, _WAIT)
            return
        self._finish(call)
        if self.kind.is_told_of_end(self.scenario):
            self.seen["callbacks"] = counts.after_end()
        self._look(call)

    def _invoke(self, call: Callable[..., Any]) -> Any:
        metadata = self.scenario.metadata
        if isinstance(metadata, tuple):
            metadata = (*metadata, (SCRIPT, self.scenario.script.name))
        return call(
            self._requests() if self.kind.arity.startswith("stream") else REQUEST,
            timeout=self.scenario.timeout,
            metadata=metadata,
            credentials=self.scenario.credentials and self.scenario.credentials(),
            wait_for_ready=self.scenario.wait_for_ready,
            compression=self.scenario.compression,
        )

    def _requests(self) -> Iterator[bytes]:
        yield from self.scenario.requests
        if self.scenario.then is Requests.WAIT:
            self.release.wait(_WAIT)
        elif self.scenario.then is Requests.RAISE:
            self.server.wait_until(has_one, _WAIT)
            raise RuntimeError("this request iterator fails")

    def _act(self, call: Any) -> None:
        """Take the caller's action while the call runs."""
        caller = self.scenario.caller
        if caller.reads_first:
            self.messages.append(next(call))
        elif caller.closes or caller.abandons or caller is Caller.CANCELS_INSIDE:
            self.server.wait_until(has_one, _WAIT)
        if caller.closes:
            self.channel.close()
        if caller.cancels:
            self.seen["cancel"] = call.cancel()

    def _finish(self, call: Any) -> None:
        for again in (False, True):
            try:
                self._read_to_end(call)
            except Exception as error:  # noqa: BLE001 - any exception is compared
                self.seen.update(
                    {"raised_again": Failure.of(error)} if again else {"raised": Failure.of(error), "where": "result"}
                )

    def _read_to_end(self, call: Any) -> None:
        if self.kind.form == "future":
            self.messages.append(call.result(timeout=_WAIT))
        else:
            self.messages.extend(call)

    def _look(self, call: Any) -> None:
        self.seen.update(
            code=call.code(),
            details=plain(call.details()),
            initial_metadata=pairs(call.initial_metadata()),
            trailing_metadata=pairs(call.trailing_metadata()),
        )
        self.seen["flags"] = tuple(
            (name, getattr(call, name)()) for name in ("done", "cancelled", "running", "is_active")
        )
        if self.kind.is_told_of_end(self.scenario):
            self.seen["callback_after_end"] = call.add_callback(lambda: None)

    @contextmanager
    def _meanwhile(self) -> Iterator[None]:
        """Events while a blocking caller is inside its call."""
        act: Callable[[], object] | None = None
        if self.scenario.serves is Serves.LATER:
            act = self.server.start
        elif self.kind.blocks and self.scenario.caller.closes:
            act = self._close_inside
        if act is None:
            yield
            return
        timer = threading.Timer(_LATER, act)
        timer.start()
        yield
        timer.join()

    def _close_inside(self) -> None:
        self.server.wait_until(has_one, _WAIT)
        self.channel.close()


class _Callbacks:
    """Counts the callbacks at the end of a call object; each must run, and run once."""

    def __init__(self, call: Any) -> None:
        self._counts = {"done": 0, "end": 0}
        self._came = threading.Condition()
        call.add_done_callback(lambda _: self._count("done"))
        if not call.add_callback(lambda: self._count("end")):
            self._count("end")  # refused, as the call had ended: the result says so

    def _count(self, name: str) -> None:
        with self._came:
            self._counts[name] += 1
            self._came.notify_all()

    def after_end(self) -> tuple[tuple[str, int], ...]:
        with self._came:
            self._came.wait_for(lambda: all(self._counts.values()), _WAIT)
            return tuple(self._counts.items())
