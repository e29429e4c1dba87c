"""Plug-in resolvers: their registry, and calls that validate what they return.

A plug-in may raise anything, return anything, or block forever. Its errors have its name. It never stops the control
plane, and closing a channel never waits for it.
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
    from importlib import metadata  # lazy: it takes milliseconds

    return metadata.entry_points(group="meshlib.resolvers")


REGISTRY: Final = ResolverRegistry(_entry_points)
"""Resolver schemes of this process."""


class TracedResolver(Protocol):
    """A resolver that raises only :class:`ResolveError` and records its steps."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Queries of the last resolution, with their answers."""
        ...

    @property
    def outdated(self) -> bool:
        """Whether the source of the last answer is known to have changed."""
        ...

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """See :class:`meshlib.discovery.Resolver`."""
        ...


@final
class FixedResolver:
    """Endpoints named by the target itself, which need no lookup."""

    steps: tuple[Step, ...] = ()
    outdated = False

    def __init__(self, resolution: Resolution) -> None:
        self._resolution = resolution

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the same endpoints every time."""
        return self._resolution


@final
class PluginResolver:
    """A user's resolver: ``async def`` runs on this loop, ``def`` in a new thread each time."""

    steps: tuple[Step, ...] = ()
    outdated = False

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._name = described(resolver)

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the plug-in's answer, checked."""
        try:
            answer = await self._ask(previous)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self._failed(error) from error  # raised by the plug-in itself
        except BaseException as error:  # any error ends this resolution only
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
    """Run ``function`` in a new daemon thread; in this one at the exit of the interpreter.

    On cancellation the thread is abandoned, since nothing can stop it. Neither a closing channel nor the end of the
    program waits for it, as the latter would for the workers of an executor.
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
        except BaseException as error:  # noqa: BLE001 - any error is passed to the caller
            outcome = None, error
        with suppress(RuntimeError):  # the loop was closed: no task waits
            loop.call_soon_threadsafe(deliver, outcome)

    spawn(run, name)
    result, error = await done
    if isinstance(error, Exception):
        raise error
    if error is not None:  # must not end the program or this task
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return cast("T", result)
