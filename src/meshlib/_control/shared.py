"""One resolution for all channels of one event loop with the same source.

Ten channels to one name send one query per TTL, not ten, and see the same endpoints at the same moment. The machine of
:mod:`meshlib._core.discovery.refresh` decides when; this module holds its task and its subscribers.
"""

import asyncio
import os
from collections.abc import Callable, Hashable, Mapping
from random import Random
from typing import TYPE_CHECKING, Final, final
from weakref import WeakSet, WeakValueDictionary

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._control.plugins import FixedResolver, PluginResolver, TracedResolver
from meshlib._control.sources import Source, fixed
from meshlib._control.timers import call_at
from meshlib._core.discovery.refresh import Refresh
from meshlib._core.discovery.steps import ResolveError, Step
from meshlib._core.endpoint import Resolution

if TYPE_CHECKING:
    from meshlib._control.lookup import Lookup
    from meshlib._control.system import SystemFiles

__all__ = ["Resolutions", "SharedResolution"]

_log = DeferredLogger("meshlib")

PATIENCE: Final = 1.0
"""Seconds that closing waits for cancelled plug-ins; one that ignores it is abandoned."""


@final
class Resolutions:
    """All resolutions of one event loop; every method runs on it.

    Args:
        clock: the channels' clock, in monotonic seconds.
        rng: draws the jitter.
        environ: read at each resolution.
        files: the machine's name files; None: /etc/resolv.conf and /etc/hosts.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        rng: Random,
        environ: Mapping[str, str] = os.environ,
        files: "SystemFiles | None" = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._environ = environ
        self._files = files
        self._shared: WeakValueDictionary[Hashable, SharedResolution] = WeakValueDictionary()
        self._all: WeakSet[SharedResolution] = WeakSet()
        self._lookups: WeakValueDictionary[Hashable, Lookup] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, source: Source) -> "SharedResolution":
        """Return the resolution of ``source``, shared with equal sources. Idle until subscribed to.

        If its environment has changed since the last query, its subscribers keep it and it resolves again; a new
        subscriber gets a new one.
        """
        shared = self._shared.get(source.key)
        if shared is not None and shared.outdated:
            shared.resolve_now()
            shared = None
        if shared is None:
            shared = SharedResolution(
                source, self._resolver(source), self._refresh(source), clock=self._clock, tasks=self._tasks
            )
            self._shared[source.key] = shared
            self._all.add(shared)
        return shared

    def take(self, host: str, resolution: Resolution) -> None:
        """Use ``resolution`` as the answer of every current resolution of ``host``, whatever its resolver.

        For tests, which know the endpoints and need not wait for the next query.
        """
        for shared in tuple(self._all):
            if shared.source.target.host == host:
                shared.take(resolution)

    async def aclose(self) -> None:
        """End every query. Waits for sockets to be closed, but not for a plug-in that will not end."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=PATIENCE)
            for task in stuck:
                _log.warning("%s: ignored its cancellation and was abandoned", task.get_name())
        await asyncio.sleep(0)  # transports close their sockets in the next turn of the loop

    def _refresh(self, source: Source) -> Refresh:
        """Obey the TTL of a plug-in; query DNS again within ``max_ttl`` whatever its TTL."""
        policy = source.policy
        return Refresh(
            rng=self._rng,
            floor=policy.min_ttl,
            ceiling=float("inf") if source.plugin is not None else policy.max_ttl,
            allow_empty=policy.allow_empty,
        )

    def _resolver(self, source: Source) -> TracedResolver:
        target = source.target
        inner: TracedResolver
        endpoints = None if source.plugin is not None else fixed(target)
        if endpoints is not None:
            return FixedResolver(endpoints)
        from meshlib._control import resolvers

        if source.plugin is None and target.scheme == "static":
            return resolvers.ListResolver(target, self._lookup(source))
        if source.plugin is not None:
            inner = PluginResolver(source.plugin)
        elif target.scheme == "srv":
            inner = resolvers.SrvResolver(target, self._lookup(source))
        else:
            inner = resolvers.DnsResolver(target, self._lookup(source))
        if not target.host or target.is_ip or target.entries:
            return inner
        return resolvers.Overridable(target, inner, self._lookup(source), self._environ)

    def _lookup(self, source: Source) -> "Lookup":
        from meshlib._control.lookup import Lookup
        from meshlib._control.system import SystemFiles

        self._files = self._files or SystemFiles()
        server = source.target.nameserver if source.target.scheme in ("dns", "srv") else None
        lookup = self._lookups.get((source.policy, server))
        if lookup is None:
            lookup = Lookup(source.policy, self._files, (server,) if server else ())
            self._lookups[source.policy, server] = lookup
        return lookup


@final
class SharedResolution:
    """The resolution of one source. It runs while it has subscribers; every method runs on its event loop."""

    def __init__(
        self,
        source: Source,
        resolver: TracedResolver,
        refresh: Refresh,
        *,
        clock: Callable[[], float],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self.source = source
        self._resolver = resolver
        self._refresh = refresh
        self._clock = clock
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._run_now: object = None
        """Identifies the current task; each has its own."""
        self._wake = asyncio.Event()
        self._subscribers: dict[object, tuple[Callable[[Resolution], None], Callable[[str], None]]] = {}
        self._asked_at: float | None = None
        self._logged: str | None = None

    @property
    def resolution(self) -> Resolution | None:
        """The last good answer."""
        return self._refresh.current

    @property
    def error(self) -> ResolveError | None:
        """Error of the last query; None if it succeeded."""
        return self._refresh.error

    @property
    def outdated(self) -> bool:
        """Whether the source of the last answer is known to have changed."""
        return self._resolver.outdated

    @property
    def steps(self) -> tuple[Step, ...]:
        """Queries of the last resolution, with their answers."""
        return self._resolver.steps

    @property
    def asked_at(self) -> float | None:
        """Time of the last query, by the clock; None before the first."""
        return self._asked_at

    @property
    def next_at(self) -> float | None:
        """Time of the next query, by the clock; None while one is in flight, or if none is needed."""
        return self._refresh.next_timer()

    def subscribe(
        self, on_resolved: Callable[[Resolution], None], on_failed: Callable[[str], None]
    ) -> Callable[[], None]:
        """Report every change from now on, and the last good answer, if any, before this returns.

        Without one, a new subscriber is not notified of the last failure, but of the next outcome. That query is in
        flight, or is sent as soon as the floor allows.

        Args:
            on_resolved: gets changed endpoints, or the same ones after a failure.
            on_failed: receives the reason of each failure; the last good endpoints are kept.

        Returns:
            A function that unsubscribes. The last one to do so ends the query.
        """
        token = object()
        self._subscribers[token] = on_resolved, on_failed
        if self._task is None:
            self._begin()
        elif self.error is not None:
            self.hurry()
        if self.resolution is not None:
            on_resolved(self.resolution)
            if self.error is not None:
                on_failed(str(self.error))
        return lambda: self._unsubscribe(token)

    def take(self, resolution: Resolution) -> None:
        """Use ``resolution`` as the answer now, in place of that of a query in flight."""
        if self._task is not None:
            self._task.cancel()
            self._run_now = None
            self._tell(resolution)
            if self._subscribers:
                self._begin()

    def hurry(self) -> None:
        """Resolve as soon as the floor allows: a host began to fail."""
        self._refresh.hurry(now=self._clock())
        self._wake.set()

    def resolve_now(self) -> None:
        """Resolve now, unless a query is in flight."""
        self._refresh.resolve_now(now=self._clock())
        self._wake.set()

    def __str__(self) -> str:
        return self.source.target.text

    def _unsubscribe(self, token: object) -> None:
        self._subscribers.pop(token, None)
        if not self._subscribers and self._task is not None:
            self._task.cancel()
            self._task = self._run_now = None
            self._refresh.abandon()

    def _begin(self) -> None:
        self._run_now = run = object()
        self._task = asyncio.get_running_loop().create_task(self._run(run), name=f"meshlib resolution {self}")
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)

    async def _run(self, run: object) -> None:
        # A plug-in may swallow the cancellation: its task still ends here, and its answer is ignored.
        # Not identified by the task itself: an eager one begins before it is assigned.
        while self._run_now is run:
            due = self._refresh.next_timer()
            if due is None or due > self._clock():
                await self._sleep(due)
            else:
                await self._ask(run)

    async def _sleep(self, until: float | None) -> None:
        """Wait until the clock reaches ``until``, or until woken to check it again."""
        self._wake.clear()
        timer = None
        if until is not None:
            timer = call_at(asyncio.get_running_loop(), self._clock, until, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    async def _ask(self, run: object) -> None:
        self._asked_at = self._clock()
        outcome = await self._outcome(self._refresh.begin(now=self._asked_at))
        if self._run_now is run:
            self._tell(outcome)

    def _tell(self, outcome: Resolution | ResolveError) -> None:
        now = self._clock()
        news: Resolution | ResolveError | None
        if isinstance(outcome, Resolution):
            news = self._refresh.on_answer(outcome, now=now)
        else:
            news = self._refresh.on_failure(outcome, now=now)
        self._report(self._refresh.error)
        for token, (on_resolved, on_failed) in tuple(self._subscribers.items()):
            if token not in self._subscribers:
                continue  # unsubscribed meanwhile
            try:
                if isinstance(news, Resolution):
                    on_resolved(news)
                elif news is not None:
                    on_failed(str(news))
            except Exception:  # noqa: BLE001 - one channel's error must not stop the others
                _log.exception("%s: a channel failed to apply the resolution; please report this bug", self)

    async def _outcome(self, previous: Resolution | None) -> Resolution | ResolveError:
        try:
            return await self._resolver.resolve(previous)
        except ResolveError as error:
            if error.absent and self.source.policy.allow_empty:
                return Resolution(endpoints=(), ttl=error.ttl)
            return error
        except Exception as error:  # noqa: BLE001 - the control plane survives even our own bugs
            _log.exception("%s: the resolver failed unexpectedly; please report this bug", self)
            return ResolveError(f"{type(error).__name__}: {error}")

    def _report(self, error: ResolveError | None) -> None:
        """Log a failure when it begins and when it changes, not at each attempt."""
        told = None if error is None else str(error)
        if told == self._logged:
            return
        self._logged = told
        if error is None:
            _log.info("%s: resolution recovered", self)
            return
        kept = "no endpoints" if self.resolution is None else "last good endpoints kept"
        _log.warning(
            "%s: resolution failed, %s: resolver=%s, reason=%s",
            self,
            kept,
            self.source.name,
            told,
            exc_info=error.__cause__,
        )
