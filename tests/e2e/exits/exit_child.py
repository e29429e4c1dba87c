"""A program that calls while the interpreter exits, or leaves something open then; run by test_exits.

usage: exit_child.py PROGRAM KIND TARGET   prints the answers, one a line; writes the time at which its exit began, in
monotonic seconds, to the descriptor named by EXIT_BEGAN
"""

import asyncio
import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from typing import Any

PROGRAM, KIND, TARGET = sys.argv[1:]
HELD: list[Any] = []
"""Objects that are never closed."""

logging.getLogger("meshlib").setLevel(logging.ERROR)  # a single address is intended here


def told(answer: object) -> None:
    """Print an answer."""
    print(answer, flush=True)  # noqa: T201 - the test reads it


def call() -> None:
    """Make one call of the kind on the channel."""
    told(answer(HELD[0]))


def answer(channel: Any) -> object:
    """The result of a call of the kind."""
    if KIND == "unary":
        return channel.unary_unary(echo.UNARY)(b"x", timeout=10)
    if KIND == "future":
        return channel.unary_unary(echo.UNARY).future(b"x", timeout=10).result()
    if KIND == "stream":
        return list(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10))
    if KIND == "upload":
        return channel.stream_unary(echo.CLIENT_STREAM)(iter([b"x", b"y"]), timeout=10)
    return list(channel.stream_stream(echo.BIDI_STREAM)(iter([b"x", b"y"]), timeout=10))


if PROGRAM.startswith("early"):
    atexit.register(call)

import grpc  # noqa: E402

import meshlib  # noqa: E402 - handlers that were registered before it run after its own
from meshlib import aio  # noqa: E402
from meshlib.testing import echo  # noqa: E402


class Named:
    """A resolver that is a plain function: it runs on its own thread while threads can be started."""

    def resolve(self, previous: object) -> Any:
        """The address behind ``named:``."""
        from meshlib.discovery import Endpoint, Resolution

        return Resolution(endpoints=(Endpoint(address=TARGET.removeprefix("named:///")),))


class Calling(Named):
    """Calls before it answers: at exit, that is inside the loop of the control thread, the only thread."""

    def resolve(self, previous: object) -> Any:
        """Print the outcome of calls that cannot wait for the answer."""
        for timeout in (None, 0.1):
            begun = time.monotonic()
            try:
                nested(timeout)
            except grpc.RpcError as error:
                took = time.monotonic() - begun
                told((error.code().name, took >= (timeout or 0.0)))  # type: ignore[attr-defined]
        return super().resolve(previous)


def nested(timeout: float | None) -> None:
    """Make one call of the kind on the channel."""
    channel = HELD[0]
    if KIND == "unary":
        channel.unary_unary(echo.UNARY)(b"x", timeout=timeout)
    elif KIND == "future":
        channel.unary_unary(echo.UNARY).future(b"x", timeout=timeout).result()
    else:
        list(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=timeout))


class Closer:
    """Closes the channel when it is collected."""

    def __del__(self) -> None:
        HELD[0].close()


class Caller:
    """Calls when it is collected."""

    def __del__(self) -> None:
        call()


def slow(record: logging.LogRecord) -> bool:
    """A filter that takes longer than an exit may wait."""
    time.sleep(0.0 if record.threadName == "MainThread" else 30.0)
    return False


async def left_open(flight: bool) -> None:
    """Call on an asyncio channel that is never closed; with ``flight``, others are in flight when the loop ends."""
    channel = aio.channel(TARGET)
    HELD.append(channel)
    told(await channel.unary_unary(echo.UNARY)(b"x", timeout=10))
    if flight:
        slowly = ((echo.DELAY_MS, "5000"),)
        HELD.extend(channel.unary_unary(echo.UNARY)(b"x", timeout=10, metadata=slowly) for _ in range(5))
        stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10)
        HELD.append(stream)
        async for _ in stream:
            break


def hammer() -> None:
    """A daemon thread that calls until the process ends."""
    while True:
        HELD[0].unary_unary(echo.UNARY)(b"x", timeout=10)


def child() -> None:
    """The work of a multiprocessing child: one call on its parent's channel, and no close."""
    told(answer(HELD[0]))


def main() -> None:
    """Run the program."""
    if PROGRAM.startswith("aio"):
        asyncio.run(left_open(PROGRAM == "aio-flight"))
        return
    resolver: Any = Named() if TARGET.startswith("named:") else None
    if PROGRAM == "nested":
        resolver = Calling()
    target = "svc-a:1" if resolver else TARGET
    channel: Any = meshlib.channel(target, resolver=resolver)
    HELD.append(channel)
    if PROGRAM not in ("early", "first", "nested", "worker", "finalize", "del"):
        told(answer(channel))
    if PROGRAM in ("first", "nested", "warm", "status"):
        atexit.register(call)
    elif PROGRAM == "finalize":
        HELD.append(weakref.finalize(call, call))  # `call` lives until its module ends
    elif PROGRAM == "close":
        HELD.append(Closer())
    elif PROGRAM == "del":
        globals()["caller"] = Caller()
    elif PROGRAM == "flight":
        slowly = ((echo.DELAY_MS, "5000"),)
        HELD.extend(channel.unary_unary(echo.UNARY).future(b"x", timeout=10, metadata=slowly) for _ in range(5))
        stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10)
        HELD.append(stream)
        next(stream)
    elif PROGRAM == "daemons":
        for _ in range(3):
            threading.Thread(target=hammer, daemon=True).start()
    elif PROGRAM == "worker":
        threading.Thread(target=lambda: (threading.main_thread().join(), call(), call())).start()
    elif PROGRAM == "log":
        logging.getLogger("meshlib").setLevel(logging.DEBUG)
        logging.getLogger("meshlib").addFilter(slow)
        HELD.append(meshlib.channel("static:///127.0.0.1:1", retry=None))
        HELD[-1].unary_unary(echo.UNARY).future(b"x", timeout=0.05).exception()
    elif PROGRAM == "term":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        channel.unary_unary(echo.UNARY)(b"x", timeout=10, metadata=((echo.DELAY_MS, "5000"),))
    elif PROGRAM == "fork":
        started = multiprocessing.get_context("fork").Process(target=child)
        started.start()
        started.join()
        sys.exit(started.exitcode)
    elif PROGRAM == "at once":
        os._exit(7)
    if PROGRAM == "status":
        sys.exit(7)


try:
    main()
finally:
    os.write(int(os.environ["EXIT_BEGAN"]), str(time.monotonic()).encode())
