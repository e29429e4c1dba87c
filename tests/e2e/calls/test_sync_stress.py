"""Many concurrent calls, with killed servers and calls that fail, are cancelled, abandoned and late."""

import gc
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from random import Random
from typing import Any

import grpc
from tests.e2e.kinds import KINDS, answers, expected, starters
from tests.e2e.sync_mesh import WAIT, idle, mesh
from tests.waiting import until

import meshlib
from meshlib.testing import ProcessServer, Server, echo, servers


def test_killed_servers_lose_nothing() -> None:
    """Calls of every kind inside a server killed -9 are answered completely by another."""
    with ExitStack() as stack:
        some: list[Any] = [stack.enter_context(ProcessServer()) for _ in range(3)]
        channel: Any = stack.enter_context(mesh(*some))
        start = starters(channel, "sync")
        channel.unary_unary(echo.UNARY)(b"warm", wait_for_ready=True, timeout=WAIT)
        requests = [b"0", b"1", b"2"]
        for victim in some:
            until(lambda: channel._plain.lease.present.cluster.ready == 3)
            calls = [
                (kind, start[kind](requests, metadata=((echo.DELAY_MS, "200"), (echo.REQUEST_ID, kind))))
                for kind in KINDS * 3
            ]
            victim.wait_until(lambda server: len(server.unfinished) > 0)
            victim.kill()
            for kind, call in calls:
                assert list(answers(kind, call)) == expected(kind, requests), (kind, call, call.mesh)
            victim.start()
        until(lambda: idle(channel))


def test_stress(rng: Random) -> None:
    """A call always ends once: each callback runs once, nothing stays counted, and every message is delivered once and
    in order, even after replays."""
    codes = frozenset({"UNAVAILABLE", "ABORTED"})
    retry = meshlib.RetryPolicy(max_attempts=4, per_attempt_timeout=2.0, retryable_status_codes=codes)
    ends: Counter[str] = Counter()
    told: Counter[tuple[int, str]] = Counter()
    wrong: list[object] = []
    lock = threading.Lock()
    added = 0

    def count(number: int, what: str) -> None:
        with lock:
            told[number, what] += 1

    def end(what: str) -> None:
        with lock:
            ends[what] += 1

    def run(seed: int, start: dict[str, Callable[..., Any]], numbers: range) -> None:
        mine = Random(seed)
        for number in numbers:
            kind = mine.choice(KINDS)
            requests = [b"%d.%d " % (number, index) for index in range(mine.randrange(1, 8))]
            timeout = mine.choice([WAIT, WAIT, WAIT, 0.02])
            delay = mine.choice(["0"] * 8 + ["5", "30"])
            call = start[kind](requests, timeout=timeout, metadata=((echo.DELAY_MS, delay),))
            call.add_done_callback(lambda _, number=number: count(number, "done"))
            if not call.add_callback(lambda number=number: count(number, "end")):
                count(number, "end")
            what = mine.random()
            if what < 0.1:
                call.cancel()
            elif what < 0.2:
                threading.Timer(mine.random() * 0.02, call.cancel).start()
            got: list[bytes] = []
            try:
                for message in answers(kind, call):
                    got.append(message)
                    if mine.random() < 0.02:
                        call.cancel()
            except grpc.FutureCancelledError:
                end("CANCELLED")
            except grpc.RpcError as error:
                if error is not call:
                    wrong.append(error)
                end(call.code().name)
            else:
                end("OK")
                if got != expected(kind, requests):
                    wrong.append((kind, got, requests))
            if got != expected(kind, requests)[: len(got)]:
                wrong.append((kind, got, requests))

    with servers(3) as some, mesh(*some, retry=retry, retry_budget=None) as channel:
        start = starters(channel, "sync")
        stop = threading.Event()
        trouble = threading.Thread(target=_trouble, args=(Random(rng.random()), some, stop))
        trouble.start()
        workers = [
            threading.Thread(target=run, args=(rng.random(), start, range(first, first + 200)))
            for first in range(0, 2400, 200)
        ]
        for worker in workers:
            worker.start()
            added += 200
        for worker in workers:
            worker.join(50)
        stop.set()
        trouble.join()
        assert not any(worker.is_alive() for worker in workers)
        assert wrong == []
        assert ends.total() == added
        # The number of each depends on the machine; each was requested.
        assert set(ends) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "NOT_FOUND", *codes}, ends
        assert ends["OK"] > 0
        assert ends["CANCELLED"] > 0
        until(lambda: len(told) == 2 * added)
        until(lambda: idle(channel))
        assert set(told.values()) == {1}


def _trouble(rng: Random, some: list[Server], stop: threading.Event) -> None:
    """Let calls fail in every way that a server can, until ``stop``."""
    while not stop.wait(0.003):
        server = rng.choice(some)
        code = rng.choice(["UNAVAILABLE", "UNAVAILABLE", "ABORTED", "NOT_FOUND", None])
        after = rng.choice([0, 0, 0, 1, 2])
        trailing = rng.choice([(), (("grpc-retry-pushback-ms", "1"),)])
        if code is None:
            server.fault(delay=0.01, after=after, times=1)
        else:
            server.fault(code=code, after=after, times=1, trailing_metadata=trailing)


def test_abandoned_calls_leave_nothing(rng: Random) -> None:
    """Hundreds of calls dropped at any moment are all cancelled, and none stays counted."""
    with servers(2) as some, mesh(*some) as channel:
        start = starters(channel, "sync")
        some[0].fault(delay=0.02)
        for number in range(400):
            kind = rng.choice(KINDS)
            call = start[kind]([b"%d" % number] * 3, timeout=WAIT)
            if kind.endswith("stream") and rng.random() < 0.5:
                assert next(call) == b"%d" % number
            del call
        for server in some:
            server.wait_until(lambda server: server.in_flight == 0, WAIT)
        until(lambda: idle(channel))
        gc.collect()
        until(lambda: len(channel._plain.lease.present.process.live) == 0)  # type: ignore[attr-defined]
