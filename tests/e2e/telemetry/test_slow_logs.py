"""Log handlers that are slow, or call through the channel they log: no call waits for a record of another."""

import contextvars
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

import meshlib
from meshlib._adapt import deferred_log
from meshlib.testing import DnsServer, Server, echo, flush_logs

LOG = logging.getLogger("meshlib")
WAIT = 20.0


class Handler(logging.Handler):
    """Passes each record to a function."""

    def __init__(self, handle: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self._handle = handle

    def emit(self, record: logging.LogRecord) -> None:
        self._handle(record)


@contextmanager
def handled(handle: Callable[[logging.LogRecord], object], level: int = logging.INFO) -> Iterator[None]:
    """Add a handler to the logger ``meshlib``."""
    handler, before = Handler(handle), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(level)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before)


def said(records: list[logging.LogRecord], text: str) -> logging.LogRecord:
    """The one record with ``text`` in its message."""
    (found,) = [record for record in records if text in record.getMessage()]
    return found


def test_a_handler_that_blocks_holds_up_no_call() -> None:
    """While a handler blocks on a record of the control thread, channels resolve, connect and answer calls."""
    blocked, go_on = threading.Event(), threading.Event()

    def block(record: logging.LogRecord) -> None:
        if "endpoints changed" in record.getMessage():
            blocked.set()
            assert go_on.wait(WAIT)

    with Server() as first, Server() as second, handled(block):
        try:
            with (
                meshlib.channel(f"static:///{first.address}") as channel,
                meshlib.channel(f"static:///{second.address}") as another,
            ):
                assert channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
                assert blocked.wait(WAIT)
                assert another.unary_unary(echo.UNARY)(b"y", timeout=5) == b"y"
                assert list(another.unary_stream(echo.SERVER_STREAM)(b"y", timeout=5)) == [b"y"] * 3
                with pytest.raises(TimeoutError, match="one of them blocks"):
                    flush_logs(0.01)
        finally:
            go_on.set()


def test_a_handler_may_ship_its_records_through_the_same_channel() -> None:
    """A record about a channel is sent with a call on this channel, even while it has no host yet."""
    shipped: list[bytes] = []
    with Server() as server, meshlib.channel(f"static:///{server.address}") as channel:
        send = channel.unary_unary(echo.UNARY)

        def ship(record: logging.LogRecord) -> None:
            if record.threadName == "meshlib-control":
                shipped.append(send(record.getMessage().encode(), timeout=5))

        with handled(ship):
            assert send(b"x", timeout=5) == b"x"
            flush_logs(WAIT)
        # Twice if its call is the first one as well: of two that start a channel at once, one is shut down again.
        assert set(shipped) == {f"static:///{server.address}: endpoints changed: +{server.address}".encode()}


def test_a_record_is_made_where_it_happens_and_handled_elsewhere() -> None:
    """The factory runs on the control thread, the handler on the log thread, and the record names its line."""
    made: list[tuple[str, str]] = []
    records: list[logging.LogRecord] = []
    seen: list[str] = []
    factory = logging.getLogRecordFactory()

    def make(*args: object, **kwargs: object) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        made.append((threading.current_thread().name, record.getMessage()))
        return record

    def hear(record: logging.LogRecord) -> None:
        records.append(record)
        seen.append(threading.current_thread().name)

    logging.setLogRecordFactory(make)
    try:
        with Server() as server, handled(hear), meshlib.channel(f"static:///{server.address}") as channel:
            assert channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
            flush_logs(WAIT)
            record = said(records, "endpoints changed")
    finally:
        logging.setLogRecordFactory(factory)
    assert ("meshlib-control", record.getMessage()) in made
    assert record.threadName == "meshlib-control"
    assert seen[records.index(record)] == "meshlib-log"
    assert os.path.basename(record.pathname) == "logs.py"
    assert record.funcName == "on_channel_event"


def test_the_end_of_a_future_is_logged_on_the_log_thread() -> None:
    """grpc's thread makes the record of a failed call, and waits for no handler."""
    blocked, go_on = threading.Event(), threading.Event()
    records: list[logging.LogRecord] = []

    def block(record: logging.LogRecord) -> None:
        if echo.UNARY in record.getMessage():
            records.append(record)
            blocked.set()
            assert go_on.wait(WAIT)

    with Server() as server, handled(block, logging.DEBUG):
        try:
            with meshlib.channel(f"static:///{server.address}", retry=None) as channel:
                server.fault(code="NOT_FOUND", times=1)
                future = channel.unary_unary(echo.UNARY).future(b"x", timeout=5)
                assert isinstance(future.exception(WAIT), grpc.RpcError)
                assert blocked.wait(WAIT)
                assert channel.unary_unary(echo.UNARY).future(b"y", timeout=5).result(WAIT) == b"y"
        finally:
            go_on.set()
    assert records[0].threadName != threading.current_thread().name


def test_the_records_of_a_caller_stay_on_its_thread() -> None:
    """When a failed blocking call returns, the caller's thread has handled its record."""
    threads: list[str] = []

    def hear(record: logging.LogRecord) -> None:
        if echo.UNARY in record.getMessage():
            threads.append(threading.current_thread().name)

    with Server() as server, meshlib.channel(f"static:///{server.address}", retry=None) as channel:
        server.fault(code="NOT_FOUND", times=1)
        with handled(hear, logging.DEBUG), pytest.raises(grpc.RpcError):
            channel.unary_unary(echo.UNARY)(b"x", timeout=5)
        assert threads == [threading.current_thread().name]


async def test_a_handler_that_blocks_holds_up_no_event_loop() -> None:
    """The control plane on an application's loop waits for no handler either."""
    from meshlib import aio

    blocked, go_on = threading.Event(), threading.Event()

    def block(record: logging.LogRecord) -> None:
        if "endpoints changed" in record.getMessage():
            blocked.set()
            assert go_on.wait(WAIT)

    with Server() as server, DnsServer() as dns, handled(block):
        dns.add("svc.mesh.test", "A", "127.0.0.1")
        try:
            async with aio.channel(f"dns://{dns.address}/svc.mesh.test:{server.port}") as channel:
                assert await channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
                assert blocked.wait(WAIT)
                assert await channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
        finally:
            go_on.set()


def test_filters_and_handlers_see_the_context_of_the_place() -> None:
    """A context variable has the value from where the record was made."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []
    log = deferred_log.DeferredLogger("meshlib")
    with handled(lambda _: seen.append(request.get())):
        for value in ("a", "b"):
            contextvars.copy_context().run(lambda value=value: (request.set(value), log.info("a record")))
        flush_logs(WAIT)
    assert seen == ["a", "b"]


def test_records_keep_their_order_and_the_values_of_their_time() -> None:
    """A thousand records of one thread come in order; an argument that changes later keeps its value."""
    told: list[str] = []
    log = deferred_log.DeferredLogger("meshlib")
    changing: list[int] = []
    with handled(lambda record: told.append(record.getMessage())):
        for n in range(1000):
            changing[:] = [n]
            log.info("%s", changing)
        flush_logs(WAIT)
    assert told == [f"[{n}]" for n in range(1000)]


def test_a_handler_that_holds_up_too_many_records_loses_the_rest_and_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is bounded, and a record gives the number of dropped records."""
    monkeypatch.setattr(deferred_log, "LIMIT", 10)
    blocked, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    def block(record: logging.LogRecord) -> None:
        told.append(record.getMessage())
        if record.getMessage() == "the first":
            blocked.set()
            assert go_on.wait(WAIT)

    log = deferred_log.DeferredLogger("meshlib")
    with handled(block):
        try:
            log.info("the first")
            assert blocked.wait(WAIT)
            for n in range(25):
                log.info("%d", n)
        finally:
            go_on.set()
        flush_logs(WAIT)
    assert told == [
        "the first",
        "log records dropped: count=15, queue_limit=10, a log handler is too slow",
        *map(str, range(10)),
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_that_raises_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception is reported as a thread's, and the next record is handled."""
    told: list[str] = []
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda found: raised.append(found.exc_value))
    error = ValueError("a filter of the application")

    def hear(record: logging.LogRecord) -> None:
        if record.getMessage() == "bad":
            raise error
        told.append(record.getMessage())

    log = deferred_log.DeferredLogger("meshlib")
    with handled(hear):
        log.info("bad")
        log.info("good")
        flush_logs(WAIT)
    assert raised == [error]
    assert told == ["good"]


def test_a_forked_child_logs_for_itself() -> None:
    """A child of a fork during a busy handler handles its own records, and none of its parent's."""
    blocked, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    def block(record: logging.LogRecord) -> None:
        told.append(record.getMessage())
        if record.getMessage() == "the first":
            blocked.set()
            assert go_on.wait(WAIT)

    log = deferred_log.DeferredLogger("meshlib")
    with handled(block):
        try:
            log.info("the first")
            assert blocked.wait(WAIT)
            log.info("the parent's")
            pid = os.fork()
            if pid == 0:
                try:
                    LOG.handlers[-1].createLock()
                    told.clear()
                    log.info("the child's")
                    flush_logs(5)
                    os._exit(0 if told == ["the child's"] else 3)
                finally:
                    os._exit(4)
            _, status = os.waitpid(pid, 0)
        finally:
            go_on.set()
        flush_logs(WAIT)
    assert os.waitstatus_to_exitcode(status) == 0
    assert told == ["the first", "the parent's"]


def test_the_log_thread_ends_when_it_is_idle() -> None:
    """No thread is left a moment after the last record."""
    log = deferred_log.DeferredLogger("meshlib")
    with handled(lambda _: None):
        log.info("a record")
        flush_logs(WAIT)
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "meshlib-log"]
        thread.join(WAIT)
        assert not thread.is_alive()
        log.info("another")
        flush_logs(WAIT)
