"""Resolvers that others wrote: where they are registered, and how one is called without being trusted.

A plug-in may raise anything, return anything, block for ever. What it does is told with its name; it never ends the
control plane, and closing a channel never waits for it.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol, TypeVar, cast, final

from meshlib._control.exits import spawn
from meshlib._core.discovery.contracts import Resolver
from meshlib._core.discovery.registry import EntryPoint, ResolverRegistry, checked, described
from meshlib._core.discovery.steps import ResolveError, Step
from meshlib._core.endpoint import Resolution

__all__ = ["REGISTRY", "FixedResolver", "PluginResolver", "TracedResolver", "in_thread"]

T = TypeVar("T")


def _entry_points() -> Iterable[EntryPoint]:
    from importlib import metadata  # milliseconds that a program without plug-ins need not spend

    return metadata.entry_points(group="meshlib.resolvers")


REGISTRY: Final = ResolverRegistry(_entry_points)
"""The schemes of this process."""


class TracedResolver(Protocol):
    """What the control plane asks: a resolver that raises :class:`ResolveError` alone and tells what it tried."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Of the last resolution."""
        ...

    @property
    def outdated(self) -> bool:
        """Whether what the last answer was made from is known to have changed."""
        ...

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """As :class:`meshlib.discovery.Resolver`."""
        ...


@final
class FixedResolver:
    """Endpoints that the target itself names and that need no lookup."""

    steps: tuple[Step, ...] = ()
    outdated = False

    def __init__(self, resolution: Resolution) -> None:
        self._resolution = resolution

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Always the same."""
        return self._resolution


@final
class PluginResolver:
    """A user's resolver: ``async def`` on this loop, ``def`` in a thread of its own for each question."""

    steps: tuple[Step, ...] = ()
    outdated = False

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._name = described(resolver)

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """What the plug-in answers, checked."""
        try:
            answer = await self._ask(previous)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self._failed(error) from error  # raised by the plug-in itself: nobody cancelled us
        except BaseException as error:  # whatever it is, it ends one question and not the asking
            raise self._failed(error) from error
        return checked(answer, self._resolver)

    async def _ask(self, previous: Resolution | None) -> object:
        resolve = self._resolver.resolve
        if inspect.iscoroutinefunction(resolve):
            return await resolve(previous)
        answer = await in_thread(lambda: resolve(previous), f"meshlib resolver {self._name}")
        return await answer if inspect.isawaitable(answer) else answer

    def _failed(self, error: BaseException) -> ResolveError:
        if isinstance(error, ResolveError):
            return error
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return ResolveError(f"resolver {self._name} raised {told}")


async def in_thread(function: Callable[[], T], name: str) -> T:
    """Runs ``function`` in a daemon thread of its own; on this one at the exit of the interpreter.

    If this is cancelled the thread is left behind: nothing can stop it, and nobody may have to wait for it, neither the
    closing channel nor, as with the workers of an executor, the end of the program.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

    def deliver(outcome: tuple[T | None, BaseException | None]) -> None:
        if not done.done():
            done.set_result(outcome)

    def run() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = function(), None
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who asked
            outcome = None, error
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(deliver, outcome)

    spawn(run, name)
    result, error = await done
    if isinstance(error, Exception):
        raise error
    if error is not None:  # what would end a program, or this task, ends only the question
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return cast("T", result)
