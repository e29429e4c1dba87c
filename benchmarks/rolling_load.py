"""Load of ``rolling.py``: callers that never pause, while servers are restarted one after another."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import grpc.aio
from rolling_peers import Attempts, all_connected, wait_for_ready

from meshlib.testing import ProcessServer, echo

CALLERS = 16
TIMEOUT = 10.0  # seconds for each call
HOLD_MS = "5"
"""Duration of a handler, so that every restart finds calls in flight."""
MESSAGE = b"x" * 100
PATIENCE = 20.0  # seconds until all hosts are connected

Peer = Callable[[], AbstractContextManager[tuple[Any, Attempts]]]


@dataclass(slots=True)
class Tally:
    """Results of calls."""

    seconds: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    """One example for each code but OK."""
    attempts: int = 0
    """From ``call.mesh``; 0 without it."""

    def add(self, began: float, code: str, details: str | None, mesh: Any) -> None:
        """Count an ended call. The interpreter protects the lists and counters; the sums are read only at the end."""
        self.seconds.append(time.perf_counter() - began)
        self.codes[code] += 1
        if code != "OK":
            self.details.setdefault(code, details or "")
        if mesh is not None:
            self.attempts += len(mesh.attempts)

    @property
    def calls(self) -> int:
        """Number of calls."""
        return len(self.seconds)

    @property
    def failed(self) -> dict[str, int]:
        """Number of calls of each code but OK."""
        return {code: count for code, count in self.codes.items() if code != "OK"}

    def percentile(self, share: float) -> float:
        """Return milliseconds within which ``share`` of the calls had ended."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))] * 1000


@dataclass(slots=True)
class Run:
    """Run of one peer."""

    quiet: Tally
    rolling: Tally
    restarts: int
    attempts: int | None
    """In the rolling part; None: unknown for the peer."""
    elapsed: float
    """Seconds of the rolling part."""


class Restarts:
    """Restart ``servers`` in turn, one after ``every`` calls, or once the previous one listens again."""

    def __init__(self, servers: list[ProcessServer], how: str, every: int, done: Callable[[], int]) -> None:
        self.made = 0
        self._servers = itertools.cycle(servers)
        self._how = how
        self._every = every
        self._done = done
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="restarts")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join(60)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._over.wait(0.002):
                if self._done() >= (self.made + 1) * self._every:
                    server = next(self._servers)
                    server.terminate() if self._how == "SIGTERM" else server.kill()
                    server.start()
                    self.made += 1
        except BaseException as error:  # noqa: BLE001 - raised again at the end
            self._error = error


def run(shell: str, peer: Peer, servers: list[ProcessServer], how: str, calls: int, restarts: int) -> Run:
    """Run a fifth of the calls without restarts, then all of them under restarts."""
    return (run_sync if shell == "sync" else run_aio)(peer, servers, how, calls, restarts)


def run_sync(peer: Peer, servers: list[ProcessServer], how: str, calls: int, restarts: int) -> Run:
    """Run in threads."""
    with peer() as (channel, told), channel:
        wait_for_ready(channel)
        quiet, rolling = Tally(), Tally()
        _threads(channel, quiet, calls // 5)
        before = told()
        began = time.perf_counter()
        with Restarts(servers, how, calls // (restarts + 1), lambda: rolling.calls) as made:
            _threads(channel, rolling, calls)
            elapsed = time.perf_counter() - began
        return Run(quiet, rolling, made.made, _made(rolling, before, told()), elapsed)


def run_aio(peer: Peer, servers: list[ProcessServer], how: str, calls: int, restarts: int) -> Run:
    """Run in tasks of one loop."""

    async def main() -> Run:
        with peer() as (channel, told):
            async with channel:
                await channel.unary_unary(echo.UNARY)(b"", timeout=PATIENCE, wait_for_ready=True)
                async with asyncio.timeout(PATIENCE):
                    while not all_connected(channel):  # noqa: ASYNC110 - there is no event to wait for
                        await asyncio.sleep(0.01)
                quiet, rolling = Tally(), Tally()
                await _tasks(channel, quiet, calls // 5)
                before = await asyncio.to_thread(told)
                began = time.perf_counter()
                made = Restarts(servers, how, calls // (restarts + 1), lambda: rolling.calls)
                made.__enter__()
                try:
                    await _tasks(channel, rolling, calls)
                    elapsed = time.perf_counter() - began
                finally:
                    await asyncio.to_thread(made.__exit__)
                return Run(quiet, rolling, made.made, _made(rolling, before, await asyncio.to_thread(told)), elapsed)

    return asyncio.run(main())


def _made(tally: Tally, before: int | None, after: int | None) -> int | None:
    if tally.attempts:
        return tally.attempts
    return None if before is None or after is None else after - before


_ids = itertools.count()


def _metadata() -> tuple[tuple[str, str], ...]:
    return ((echo.REQUEST_ID, f"call-{next(_ids)}"), (echo.DELAY_MS, HOLD_MS))


def _threads(channel: Any, tally: Tally, calls: int) -> None:
    call_ = channel.unary_unary(echo.UNARY)
    turns = itertools.count()
    lock = threading.Lock()

    def caller() -> None:
        while next(turns) < calls:
            began = time.perf_counter()
            try:
                _, call = call_.with_call(MESSAGE, timeout=TIMEOUT, metadata=_metadata())
                code, details = "OK", None
            except grpc.RpcError as error:
                call = error
                code, details = error.code().name, error.details()
            with lock:
                tally.add(began, code, details, getattr(call, "mesh", None))

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _tasks(channel: Any, tally: Tally, calls: int) -> None:
    call_ = channel.unary_unary(echo.UNARY)
    turns = itertools.count()

    async def caller() -> None:
        while next(turns) < calls:
            began = time.perf_counter()
            call = call_(MESSAGE, timeout=TIMEOUT, metadata=_metadata())
            try:
                await call
                code, details = "OK", None
            except grpc.aio.AioRpcError as error:
                code, details = error.code().name, error.details()
            tally.add(began, code, details, getattr(call, "mesh", None))

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
