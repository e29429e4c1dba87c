"""Waiting without an extra task, and without a wait if the result is there."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, final

__all__ = ["Condition", "completed", "follow", "guarded"]

Done = Callable[[Any, BaseException | None], None]
Failed = Callable[[], None]


def follow(steps: Generator[Any, None, Any], done: Done, failed: Failed) -> None:
    """Run an awaitable without a task, and call ``done`` with its result or its error.

    An attempt is a grpc.aio future around a grpc.aio task; another task around it would double the cost.

    Args:
        steps: of the awaitable.
        done: called at its end.
        failed: called if a signal handler raises meanwhile, so that ``done`` may not be called.
    """
    try:
        future = steps.send(None)
    except StopIteration as stop:
        done(stop.value, None)
    except BaseException as error:  # noqa: BLE001 - a task would keep it as its result, whatever it is
        done(None, error)
    else:
        future._asyncio_future_blocking = False
        rest = _follow(steps, done, failed)
        next(rest)
        future.add_done_callback(rest.send)


def _follow(steps: Generator[Any, None, Any], done: Done, failed: Failed) -> Generator[None, Any, None]:
    """Continue :func:`follow` when the future is done; a generator for the reason of :func:`guarded`."""
    try:
        yield
        follow(steps, done, failed)
    except GeneratorExit:  # collected with its loop
        raise
    except BaseException:
        failed()
        raise
    yield  # not the end: the caller expects no StopIteration


def guarded(
    run: Callable[[Any], object], failed: Failed, raised: Callable[[BaseException], object] | None = None
) -> Callable[[Any], object]:
    """A one-time callback that calls ``run``, and ``failed`` if a signal handler raises anywhere in it.

    A function may be interrupted before its first ``try``. A generator resumes inside its own.

    Args:
        run: called with the argument of the callback.
        failed: called after an exception.
        raised: called with the exception; None: the callback raises it.
    """
    guard = _guard(run, failed, raised)
    next(guard)
    return guard.send


def _guard(
    run: Callable[[Any], object], failed: Failed, raised: Callable[[BaseException], object] | None
) -> Generator[None, Any, None]:
    try:
        argument = yield
        run(argument)
        yield  # not the end: the caller expects no StopIteration
    except GeneratorExit:  # collected
        raise
    except BaseException as error:
        failed()
        if raised is None:
            raise
        raised(error)
        yield


def completed(awaitable: Awaitable[Any]) -> Any:
    """The result of an awaitable that is done.

    Raises:
        RuntimeError: it would have to wait after all.
    """
    steps = awaitable.__await__()
    try:
        steps.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError(f"{awaitable!r} is not done, which is a bug; please report it")


@final
class Condition:
    """A condition of one event loop: each waiter checks again after a change.

    A signal handler or a finalizer may call :meth:`notify` between any two lines. So a waiter reads :attr:`notified`
    before it checks, and passes it to :meth:`wait`, which returns at once if there was a change since.

    Args:
        loop: the loop of the waiters.
    """

    __slots__ = ("_loop", "_waiters", "notified")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.notified = 0
        """Number of changes."""
        self._waiters: dict[asyncio.Future[None], None] = {}  # an ordered set: the first to wait is woken first

    async def wait(self, seen: int) -> None:
        """Wait for the first :meth:`notify` since the caller read ``seen`` from :attr:`notified`."""
        waiter = self.waiter()
        try:
            if self.notified == seen:
                await waiter
        finally:
            self.forget(waiter)

    def waiter(self) -> "asyncio.Future[None]":
        """A future that is done at the next :meth:`notify`. Pass it to :meth:`forget` if you stop waiting earlier."""
        waiter = self._loop.create_future()
        self._waiters[waiter] = None
        return waiter

    def forget(self, waiter: "asyncio.Future[None]") -> None:
        """Drop ``waiter``."""
        self._waiters.pop(waiter, None)

    def notify(self) -> None:
        """End every wait."""
        self.notified += 1
        if self._waiters:
            for waiter in tuple(self._waiters):
                if not waiter.done():
                    waiter.set_result(None)
                self._waiters.pop(waiter, None)  # last: after an exception the next notify() still finds it
